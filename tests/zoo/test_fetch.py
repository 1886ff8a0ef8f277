"""Downloads that go wrong leave nothing wrong, and say in one line what it was."""

import hashlib
import io
import tarfile

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import ZooFile
from parlai_prosocial.zoo.fetch import (
    InterruptedDownload,
    copy_verified,
    download,
    unpack,
)

CONTENT = bytes(range(256)) * 4000  # a megabyte, in many chunks


def zoo_file(content=CONTENT, name="weights.safetensors", size=True):
    sha256 = hashlib.sha256(content).hexdigest()
    return ZooFile(name, sha256, len(content) if size else None)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "weights.safetensors"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("size", [True, False])
def test_a_file_comes_whole(server, target, size):
    server.served["/w"] = CONTENT
    download(f"{server.url}/w", target, zoo_file(size=size))
    assert target.read_bytes() == CONTENT
    assert names(target) == ["weights.safetensors"]
    assert server.ranges == [None]


def test_a_broken_connection_is_taken_up_again(server, target):
    server.served["/w"] = CONTENT
    server.way = "breaking"
    with pytest.raises(InterruptedDownload, match=r"connection broke.*run it again"):
        download(f"{server.url}/w", target, zoo_file())
    # Each attempt went on behind what had come.
    begins = [int(asked.removeprefix("bytes=")[:-1]) for asked in server.ranges[1:]]
    part = target.with_name("weights.safetensors.part")
    came = part.read_bytes()
    assert 0 < begins[0] < begins[1] < len(came) < len(CONTENT)
    assert CONTENT.startswith(came)
    assert names(target) == [part.name]

    server.way = "well"
    download(f"{server.url}/w", target, zoo_file())
    assert target.read_bytes() == CONTENT
    assert server.ranges[3:] == [f"bytes={len(came)}-"]
    assert names(target) == ["weights.safetensors"]


def test_a_complete_part_is_not_fetched_again(server, target):
    target.parent.mkdir()
    target.with_name(target.name + ".part").write_bytes(CONTENT)
    download(f"{server.url}/w", target, zoo_file())
    assert target.read_bytes() == CONTENT
    assert server.ranges == []


def test_a_server_without_ranges_begins_anew(server, target):
    server.served["/w"] = CONTENT
    server.way = "without ranges"
    target.parent.mkdir()
    target.with_name(target.name + ".part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/w", target, zoo_file())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"of another version", CONTENT[:500] + b"x", CONTENT + b"more"])
def test_a_part_that_is_no_part_is_replaced(server, target, left):
    server.served["/w"] = CONTENT
    target.parent.mkdir()
    target.with_name(target.name + ".part").write_bytes(left)
    download(f"{server.url}/w", target, zoo_file())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["page", "page in disguise"])
@pytest.mark.parametrize("size", [True, False])
def test_a_web_page_is_no_file(server, target, way, size):
    server.served["/w"] = CONTENT
    server.way = way
    with pytest.raises(UserError) as error:
        download(f"{server.url}/w", target, zoo_file(size=size))
    if way == "page" or not size:
        assert f"{server.url}/w gives a web page instead of weights.safeten" in str(error.value)
    assert names(target) == []


def test_a_web_page_leaves_a_part_alone(server, target):
    """As of a hotel's network: the download goes on later."""
    server.served["/w"] = CONTENT
    server.way = "page"
    target.parent.mkdir()
    part = target.with_name(target.name + ".part")
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(InterruptedDownload, match="gives a web page"):
        download(f"{server.url}/w", target, zoo_file())
    assert part.read_bytes() == CONTENT[:1000]


def test_a_file_that_is_cut_short_on_the_server(server, target):
    server.served["/w"] = CONTENT[:-1]
    with pytest.raises(UserError, match=r"has 1,023,999 bytes, should have 1,024,000: it is cut"):
        download(f"{server.url}/w", target, zoo_file())
    assert names(target) == []


@pytest.mark.parametrize("size", [True, False])
def test_another_file_is_refused_with_both_hashes(server, target, size):
    other = CONTENT[:-1] + b"x"
    server.served["/w"] = other
    with pytest.raises(UserError) as error:
        download(f"{server.url}/w", target, zoo_file(size=size))
    assert f"{server.url}/w gives a file with sha256 {zoo_file(other).sha256}" in str(error.value)
    assert f"should be {zoo_file().sha256}" in str(error.value)
    assert names(target) == []


def test_a_missing_file_and_a_closed_port(server, target):
    with pytest.raises(UserError, match=r"/w: 404 .*PROSOCIAL_ZOO"):
        download(f"{server.url}/w", target, zoo_file())
    with pytest.raises(UserError, match="connection broke"):
        download("http://127.0.0.1:9/w", target, zoo_file())
    assert names(target) == []


def test_a_wrong_copy_is_deleted(tmp_path, target):
    source = tmp_path / "source"
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as error:
        copy_verified(source, target, zoo_file(), "mend it")
    found = zoo_file(CONTENT[:-1]).sha256
    assert str(error.value) == (
        f"{source} has sha256 {found}, should be {zoo_file().sha256}: mend it"
    )
    assert names(target) == []


def tar_of(path, *members):
    """A tar.gz of (name, bytes) files, or of ready-made members."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_is_unpacked(tmp_path):
    archive = tar_of(tmp_path / "a.tar.gz", ("model", b"m"), ("hf/weights", b"w"))
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "hf" / "weights").read_bytes() == b"w"


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", b"x")],
        [("a/../../escaped", b"x")],
        [link("out", "..", tarfile.SYMTYPE), ("out/escaped", b"x")],
        [link("out", "/", tarfile.SYMTYPE)],
        [link("out", "../../etc/passwd", tarfile.LNKTYPE)],
    ],
)
def test_an_archive_that_escapes_its_folder(tmp_path, members):
    archive = tar_of(tmp_path / "a.tar.gz", *members)
    with pytest.raises(UserError, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(archive, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("escaped"))


def test_an_absolute_name_stays_inside(tmp_path):
    archive = tar_of(tmp_path / "a.tar.gz", ("/zoo_test_absolute", b"x"))
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "zoo_test_absolute").exists()


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_an_archive_that_is_none(tmp_path, keep):
    archive = tar_of(tmp_path / "a.tar.gz", ("model", bytes(range(256)) * 999))
    archive.write_bytes(archive.read_bytes()[:keep] or b"<html>")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
