"""Models put into the data path: whole and verified, or not at all."""

import hashlib
import json
import tarfile

import pytest
from parlai.core.build_data import modelzoo_path

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import read_entry
from parlai_prosocial.zoo.install import install, installed_folder, verify_installed

CONTENTS = {"model": b"manifest", "model.opt": b"{}", "model.hf/weights.safetensors": bytes(9999)}


def ignore(line):
    pass


def described(contents, url=None):
    return [
        {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        | ({"url": f"{url}/{name}"} if url else {})
        for name, content in contents.items()
    ]


@pytest.fixture
def make(tmp_path):
    """``make(kind, **fields)``: an entry called ``tiny``, its files beside it if bundled."""

    def make_entry(kind, **fields):
        root = tmp_path / "entries"
        root.mkdir(exist_ok=True)
        content = {"name": "tiny", "kind": kind, "what": "a test", "agent": "prosocial"}
        content |= {"path": "zoo:prosocial/tiny/model", "licence": "MIT"}
        content |= {"files": described(CONTENTS)} | fields
        (root / "tiny.json").write_text(json.dumps(content))
        if kind == "bundled":
            write(root / "tiny", CONTENTS)
        return read_entry(root / "tiny.json")

    return make_entry


def write(folder, contents):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def left(datapath):
    """What lies in the data path's models, but for the lock."""
    folder = datapath / "models" / "prosocial"
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def is_whole(folder):
    return all((folder / name).read_bytes() == content for name, content in CONTENTS.items())


def test_a_bundle_is_installed_once(make, tmp_path):
    entry, said = make("bundled"), []
    folder = install(entry, tmp_path / "data", said.append)
    assert folder == tmp_path / "data" / "models" / "prosocial" / "tiny"
    assert is_whole(folder)
    assert read_entry(folder / "tiny.json").name == "tiny"
    assert len(said) == 1
    assert install(entry, tmp_path / "data", said.append) == folder
    assert len(said) == 1
    assert left(tmp_path / "data") == ["tiny"]


def test_a_newer_description_of_the_same_files_replaces_the_old_one(make, tmp_path):
    folder = install(make("bundled"), tmp_path / "data", ignore)
    weights = folder / "model.hf" / "weights.safetensors"
    before = weights.stat()
    install(make("bundled", metrics=[{"row": "new"}]), tmp_path / "data", ignore)
    assert read_entry(folder / "tiny.json").metrics == [{"row": "new"}]
    assert weights.stat() == before
    assert not list(folder.glob("*.part"))

    # What describes other files is no description of these.
    others = described(CONTENTS | {"model.opt": b"[]"})
    with pytest.raises(UserError, match=r"model\.opt has sha256"):
        install(make("bundled", files=others, metrics=[]), tmp_path / "data", ignore)
    assert read_entry(folder / "tiny.json").metrics == [{"row": "new"}]


@pytest.mark.parametrize("name", CONTENTS)
def test_one_changed_byte_of_a_bundle_is_refused(make, tmp_path, name):
    entry = make("bundled")
    file = entry.folder / name
    changed = bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]
    file.write_bytes(changed)
    with pytest.raises(UserError) as error:
        install(entry, tmp_path / "data", ignore)
    assert str(error.value) == (
        f"{file} has sha256 {hashlib.sha256(changed).hexdigest()}, should be "
        f"{hashlib.sha256(CONTENTS[name]).hexdigest()}: reinstall parlai-prosocial"
    )
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize("name", CONTENTS)
def test_one_changed_byte_of_what_is_installed_is_refused(make, tmp_path, name):
    entry = make("bundled")
    folder = install(entry, tmp_path / "data", ignore)
    (folder / name).write_bytes(b"x" + CONTENTS[name][1:])
    with pytest.raises(UserError) as error:
        install(entry, tmp_path / "data", ignore)
    assert f"{folder / name} has sha256" in str(error.value)
    assert f"should be {hashlib.sha256(CONTENTS[name]).hexdigest()}" in str(error.value)
    assert f"delete {folder} and try again" in str(error.value)
    (folder / name).unlink()
    with pytest.raises(UserError, match="is missing: delete"):
        verify_installed(entry, tmp_path / "data")


def test_a_bundle_without_its_weights(make, tmp_path):
    entry = make("bundled")
    (entry.folder / "model.hf" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        install(entry, tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []


def test_too_old_a_library_is_named(make, tmp_path):
    with pytest.raises(UserError, match=r"tiny/model needs peft 99 or later, here is 0\.\d"):
        install(make("bundled", needs={"peft": "99"}), tmp_path / "data", ignore)
    with pytest.raises(UserError, match="needs no-such-thing 1 or later, here is none"):
        install(make("bundled", needs={"no-such-thing": "1"}), tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []


@pytest.fixture
def no_mirror(monkeypatch):
    monkeypatch.delenv("PROSOCIAL_ZOO", raising=False)


def test_hosted_files(make, server, tmp_path, no_mirror):
    server.served = {f"/{name}": content for name, content in CONTENTS.items()}
    entry = make("hosted", files=described(CONTENTS, server.url))
    assert is_whole(install(entry, tmp_path / "data", ignore))
    assert left(tmp_path / "data") == ["tiny"]


def test_an_interrupted_download_goes_on(make, server, tmp_path, no_mirror):
    contents = {"weights.safetensors": bytes(range(256)) * 4000, "model": b"manifest"}
    server.served = {f"/{name}": content for name, content in contents.items()}
    entry = make("hosted", files=described(contents, server.url))
    server.way = "breaking"
    with pytest.raises(UserError, match="run it again to resume"):
        install(entry, tmp_path / "data", ignore)
    assert left(tmp_path / "data") == ["tiny.part"]
    server.way, asked = "well", len(server.ranges)
    folder = install(entry, tmp_path / "data", ignore)
    assert server.ranges[asked].startswith("bytes=")
    assert (folder / "weights.safetensors").read_bytes() == contents["weights.safetensors"]
    assert left(tmp_path / "data") == ["tiny"]


@pytest.mark.parametrize("way", ["page", "page in disguise"])
def test_a_web_page_leaves_nothing(make, server, tmp_path, no_mirror, way):
    server.served = {f"/{name}": content for name, content in CONTENTS.items()}
    server.way = way
    with pytest.raises(UserError):
        install(make("hosted", files=described(CONTENTS, server.url)), tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []


def test_a_wrong_file_among_right_ones_leaves_nothing(make, server, tmp_path, no_mirror):
    server.served = {f"/{name}": content for name, content in CONTENTS.items()}
    server.served["/model.opt"] = b"[]"
    with pytest.raises(UserError, match=r"model\.opt gives a file with sha256"):
        install(make("hosted", files=described(CONTENTS, server.url)), tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []


def archived(make, server, tmp_path, contents):
    write(tmp_path / "packed", contents)
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as tar:
        for name in contents:
            tar.add(tmp_path / "packed" / name, arcname=name)
    archive = {"tiny.tar.gz": (tmp_path / "tiny.tar.gz").read_bytes()}
    server.served = {f"/{name}": content for name, content in archive.items()}
    return make("hosted", archives=described(archive, server.url))


def test_an_archive(make, server, tmp_path, no_mirror):
    entry = archived(make, server, tmp_path, CONTENTS | {"extra": b"not listed"})
    folder = install(entry, tmp_path / "data", ignore)
    assert is_whole(folder)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {*CONTENTS, "tiny.json"}


def test_an_archive_of_other_files(make, server, tmp_path, no_mirror):
    entry = archived(make, server, tmp_path, CONTENTS | {"model": b"another"})
    with pytest.raises(UserError, match=r"has sha256 .* should be .*its archive holds another"):
        install(entry, tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []


def test_an_archive_that_escapes(make, server, tmp_path, no_mirror):
    entry = archived(make, server, tmp_path, CONTENTS)
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "packed" / "model", arcname="../../../../escaped")
    content = {"tiny.tar.gz": (tmp_path / "tiny.tar.gz").read_bytes()}
    server.served = {"/tiny.tar.gz": content["tiny.tar.gz"]}
    entry = make("hosted", archives=described(content, server.url))
    with pytest.raises(UserError, match="cannot be unpacked"):
        install(entry, tmp_path / "data", ignore)
    assert left(tmp_path / "data") == []
    assert not list(tmp_path.rglob("escaped"))


def test_a_mirror_and_a_folder(make, server, tmp_path, monkeypatch):
    entry = make("hosted", files=described(CONTENTS, "https://example.invalid"))
    server.served = {f"/zoo/tiny/{name}": content for name, content in CONTENTS.items()}
    monkeypatch.setenv("PROSOCIAL_ZOO", f"{server.url}/zoo/")
    first = install(entry, tmp_path / "first", ignore)
    assert is_whole(first)
    # What one machine has installed is the folder for the next.
    monkeypatch.setenv("PROSOCIAL_ZOO", str(first.parent))
    assert is_whole(install(entry, tmp_path / "second", ignore))

    (first / "model").write_bytes(b"tampered")
    with pytest.raises(UserError, match=r"tiny/model has sha256 .* unset PROSOCIAL_ZOO"):
        install(entry, tmp_path / "third", ignore)
    monkeypatch.setenv("PROSOCIAL_ZOO", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere/tiny/model is missing: put the right one there"):
        install(entry, tmp_path / "third", ignore)
    assert left(tmp_path / "third") == []


def test_killed_before_the_move(make, tmp_path):
    """What a killed process left is used where it is right, and replaced where not."""
    entry = make("bundled")
    part = installed_folder(entry, tmp_path / "data").with_name("tiny.part")
    write(part, {"model": b"half", "model.opt": b"{}"})
    assert is_whole(install(entry, tmp_path / "data", ignore))
    assert left(tmp_path / "data") == ["tiny"]


def test_what_is_not_published_names_its_command(tmp_path):
    with pytest.raises(UserError) as error:
        modelzoo_path(str(tmp_path), "zoo:prosocial/dialogpt_medium/model")
    message = str(error.value)
    assert message.startswith("zoo:prosocial/dialogpt_medium/model: not published yet; build it")
    assert "`prosocial train --recipe paper --base microsoft/DialoGPT-medium@refs/pr/22" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
