"""A checkpoint that is not as it was written is never used: one line names the file."""

import errno
import json
import logging
import resource
import shutil
from pathlib import Path

import pytest
import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import Checkpoint, save_checkpoint
from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier


@pytest.fixture(scope="module")
def saved(tiny_backbones, tmp_path_factory):
    """A model with an adapter and a contrast head, saved once."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, tiny_backbones["llama"])
    return folder


def save(folder, base):
    backbone = Backbone(base, lora_rank=2, contrast_head=True)
    info = {"backbone": str(base), "system_prompt": "Be kind."}
    save_checkpoint(str(folder / "model"), backbone, info, {"number_training_updates": 1})


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def opened(folder):
    """All that is read when a model is opened and trained on."""
    found = Checkpoint(str(folder / "model"))
    base = Path(found.info["backbone"])
    found.check_base(base)
    backbone = Backbone(base, adapter=found.folder, contrast_head=True)
    found.load_contrast_head(backbone)
    return found.training_state()


def change_manifest(folder, **content):
    manifest = json.loads((folder / "model").read_text())
    (folder / "model").write_text(json.dumps(manifest | content))


def without_hashes(folder):
    """What was written before there were hashes."""
    manifest = json.loads((folder / "model").read_text())
    (folder / "model").write_text(json.dumps({k: manifest[k] for k in ("format", "weights")}))


def names(folder):
    return sorted(file.name for file in (folder / "model.hf-000001").iterdir())


def test_the_manifest_knows_every_file(saved):
    manifest = json.loads((saved / "model").read_text())
    assert sorted(manifest["files"]) == names(saved)
    assert all(set(record) == {"size", "sha256"} for record in manifest["files"].values())


def test_what_was_written_before_still_opens(copy):
    without_hashes(copy)
    assert opened(copy) == {"number_training_updates": 1}


def test_hashes_are_recorded_of_what_was_written_before(copy):
    without_hashes(copy)
    checkpoint = Checkpoint(str(copy / "model"))
    assert not checkpoint.has_hashes
    assert checkpoint.seal() == len(names(copy))
    sealed = Checkpoint(str(copy / "model"))
    assert sealed.has_hashes and sealed.seal() == 0
    damage(copy / "model.hf-000001" / "adapter_model.safetensors", "flipped")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not as it was written"):
        Checkpoint(str(copy / "model"))


def damage(file, how):
    whole = file.read_bytes()
    middle = len(whole) // 2
    match how:
        case "gone":
            file.unlink()
        case "half":
            file.write_bytes(whole[:middle])
        case "empty":
            file.write_bytes(b"")
        case "flipped":
            file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])


@pytest.mark.parametrize("how", ["gone", "half", "empty", "flipped"])
def test_every_file_that_is_not_as_written_is_named(saved, tmp_path, how):
    for name in names(saved):
        folder = shutil.copytree(saved, tmp_path / f"{name}-{how}")
        damage(folder / "model.hf-000001" / name, how)
        if (name, how) == ("training.pt", "gone"):
            assert opened(folder) == {}  # to chat or evaluate nobody needs it
            continue
        with pytest.raises(UserError, match=f"model.*{name} .*; restore it") as caught:
            opened(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["half", "empty"])
def test_torn_files_without_hashes_are_one_line(saved, tmp_path, how):
    for name in names(saved):
        if name.startswith(("README", "chat_template", "tokenizer")):  # not read beside an adapter
            continue
        folder = shutil.copytree(saved, tmp_path / f"{name}-{how}")
        without_hashes(folder)
        damage(folder / "model.hf-000001" / name, how)
        with pytest.raises(UserError, match="model") as caught:
            opened(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"weights": "../elsewhere"}, "weights"),
        ({"weights": "/elsewhere"}, "weights"),
        ({"weights": ".."}, "weights"),
        ({"weights": 1}, "weights"),
        ({"number": "1"}, "number"),
        ({"files": {"../x": {"size": 1, "sha256": ""}}}, "files"),
        ({"files": {"x": {"size": 1}}}, r"files\.x\.sha256"),
        ({"previous": {"weights": "../x"}}, r"previous\.weights"),
    ],
)
def test_a_manifest_is_checked_field_by_field(copy, content, field):
    change_manifest(copy, **content)
    with pytest.raises(UserError, match=f"model: {field}.*; restore it"):
        Checkpoint(str(copy / "model"))


def test_facts_about_a_model_are_checked_field_by_field(copy):
    without_hashes(copy)
    info = copy / "model.hf-000001" / "prosocial.json"
    info.write_text('{"backbone": 1}')
    with pytest.raises(UserError, match=r"prosocial\.json: backbone: .*string"):
        Checkpoint(str(copy / "model"))
    info.write_text("[]")
    with pytest.raises(UserError, match=r"prosocial\.json: .*object"):
        Checkpoint(str(copy / "model"))


@pytest.mark.parametrize("temperature", [0, -1.0, "x", None, float("nan"), float("inf")])
def test_a_classifiers_temperature_is_above_0(tiny_encoder, tmp_path, temperature):
    SafetyClassifier(tiny_encoder, ["a", "b"]).save(str(tmp_path / "model"), "tiny", {})
    change_manifest(tmp_path, temperature=temperature)
    with pytest.raises(UserError, match="model: temperature"):
        _ = ClassifierCheckpoint(str(tmp_path / "model")).temperature


def test_the_newest_whole_checkpoint_is_used_and_said(tiny_backbones, tmp_path, caplog):
    for _ in range(2):
        save(tmp_path, tiny_backbones["llama"])
    newest = Checkpoint(str(tmp_path / "model")).folder
    damage(newest / "adapter_model.safetensors", "flipped")
    with caplog.at_level(logging.WARNING):
        found = Checkpoint(str(tmp_path / "model"))
    assert found.folder == tmp_path / "model.hf-000001" and found.folder != newest
    [said] = caplog.messages
    assert "adapter_model.safetensors is not as it was written" in said
    assert "the checkpoint before it is used, model.hf-000001" in said
    damage(found.folder / "adapter_model.safetensors", "half")
    with pytest.raises(UserError, match=r"model: .*hf-000002.*adapter_model\.safetensors"):
        Checkpoint(str(tmp_path / "model"))


def intact(folder):
    assert opened(folder) == {"number_training_updates": 1}
    assert sorted(f.name for f in folder.iterdir()) == ["model", "model.hf-000001"]


@pytest.mark.parametrize("bytes_left", [0, 3_000, 30_000, 60_000])
def test_a_full_disk_leaves_the_last_checkpoint(tiny_backbones, copy, bytes_left):
    """Every file may become so long and no longer; the error is EFBIG, as ENOSPC in its kind."""
    backbone = Backbone(tiny_backbones["llama"], lora_rank=2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = {"moments": torch.zeros(100_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limit[1]))
    try:
        with pytest.raises(UserError, match=r"model: cannot be written .*MB are free") as caught:
            save_checkpoint(str(copy / "model"), backbone, {"backbone": "x"}, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    intact(copy)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_manifest_leaves_the_last_checkpoint(
    tiny_backbones, copy, monkeypatch, code
):
    def refuses(*_):
        raise OSError(code, "what the system says")

    monkeypatch.setattr("os.replace", refuses)
    with pytest.raises(UserError, match="model: cannot be written"):
        save(copy, tiny_backbones["llama"])
    assert opened(copy) == {"number_training_updates": 1}
    assert not list(copy.glob("*.part"))
