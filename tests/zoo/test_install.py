"""Models put into the data path: whole and verified, or not at all."""

import hashlib
import json

import pytest
from parlai.core.build_data import modelzoo_path

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import read_entry
from parlai_prosocial.zoo.install import install, installed_folder, verify_installed

CONTENTS = {"model": b"manifest", "model.opt": b"{}", "model.hf/weights.safetensors": bytes(9999)}


def ignore(line):
    pass


def described(contents):
    return [
        {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
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
