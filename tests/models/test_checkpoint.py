"""Saved and loaded: the same numbers, Hugging Face's own layout, and no checkpoint lost."""

import json
import os
import shutil
import stat

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.models import checkpoint as checkpoint_module
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.checkpoint import Checkpoint, save_checkpoint

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
CONTEXT = "I feel tired today.\nYou could rest.\nWhy?"


def changed(folder, **settings):
    """A backbone whose trained weights are no longer those of its folder."""
    backbone = Backbone(folder, **settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return backbone.eval()


def scores(backbone):
    context = backbone.prompt.encode_context(CONTEXT)
    replies = [backbone.prompt.encode_response(y) for y in ("I like to walk.", "It is fine.")]
    with torch.no_grad():
        return backbone(backbone.pack([context], [replies])).mean_log_probs()


def save(path, backbone, training=None, **info):
    info = {"backbone": str(backbone.folder), "system_prompt": "Be kind."} | info
    save_checkpoint(str(path), backbone, info, training or {"number_training_updates": 1})


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_loaded_scores_are_the_saved_ones(tiny_backbones, tmp_path, name, rank):
    base = tiny_backbones[name]
    backbone = changed(base, lora_rank=rank)
    save(tmp_path / "model", backbone)
    found = Checkpoint(str(tmp_path / "model"))
    assert found.is_adapter == (rank > 0)
    if rank:
        found.check_base(base)
        loaded = Backbone(base, adapter=found.folder)
    else:
        loaded = Backbone(found.folder)
    expected = scores(backbone)
    assert not torch.allclose(expected, scores(Backbone(base).eval()), atol=1e-3)
    torch.testing.assert_close(scores(loaded.eval()), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_full_weights_open_in_transformers(tiny_backbones, tmp_path, name):
    backbone = changed(tiny_backbones[name])
    save(tmp_path / "model", backbone)
    folder = Checkpoint(str(tmp_path / "model")).folder
    auto = AutoModelForSeq2SeqLM if backbone.is_encoder_decoder else AutoModelForCausalLM
    lm = auto.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(CONTEXT, return_tensors="pt")["input_ids"]
    assert (
        ids.tolist() == backbone.prompt.tokenizer(CONTEXT, return_tensors="pt").input_ids.tolist()
    )
    more = {"decoder_input_ids": ids} if backbone.is_encoder_decoder else {}
    torch.testing.assert_close(
        lm(input_ids=ids, **more).logits,
        backbone.lm(input_ids=ids, **more).logits,
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_adapter_opens_in_peft(tiny_backbones, tmp_path, name):
    backbone = changed(tiny_backbones[name], lora_rank=2)
    save(tmp_path / "model", backbone)
    folder = Checkpoint(str(tmp_path / "model")).folder
    auto = AutoModelForSeq2SeqLM if backbone.is_encoder_decoder else AutoModelForCausalLM
    lm = PeftModel.from_pretrained(auto.from_pretrained(tiny_backbones[name]), str(folder)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if backbone.is_encoder_decoder else {}
    torch.testing.assert_close(
        lm(input_ids=ids, **more).logits,
        backbone.lm(input_ids=ids, **more).logits,
        atol=1e-6,
        rtol=0,
    )
    assert not (folder / "model.safetensors").exists()


def test_the_tokenizer_reads_in_transformers_4_and_5(tiny_backbones, tmp_path):
    """transformers 5 alone knows its TokenizersBackend."""
    for rank in (0, 2):
        backbone = Backbone(tiny_backbones["llama"], lora_rank=rank)
        backbone.prompt.tokenizer.add_special_tokens({"additional_special_tokens": ["user"]})
        save(tmp_path / "model", backbone)
        folder = Checkpoint(str(tmp_path / "model")).folder
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == backbone.prompt.tokenizer.chat_template
        assert "user" in tokenizer.all_special_tokens


def test_the_rope_reads_in_transformers_4_and_5(tiny_backbones, tmp_path):
    """4.x takes the default base of 10,000 where config.json has no rope_theta."""
    base = shutil.copytree(tiny_backbones["llama"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.pop("rope_parameters", None)
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    save(tmp_path / "model", Backbone(base))
    folder = Checkpoint(str(tmp_path / "model")).folder
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 5000.0
    torch.testing.assert_close(
        scores(Backbone(folder).eval()), scores(Backbone(base).eval()), atol=1e-6, rtol=0
    )


def test_an_adapter_refuses_another_base(tiny_backbones, tmp_path):
    save(tmp_path / "model", Backbone(tiny_backbones["llama"], lora_rank=2))
    other = shutil.copytree(tiny_backbones["llama"], tmp_path / "other")
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError) as error:
        Checkpoint(str(tmp_path / "model")).check_base(other)
    message = str(error.value)
    assert weights_sha256(tiny_backbones["llama"]) in message
    assert weights_sha256(other) in message
    assert "\n" not in message


def test_what_was_given_comes_back(tiny_backbones, tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    training = {"optimizer": optimizer.state_dict(), "number_training_updates": 7}
    save(tmp_path / "model", Backbone(tiny_backbones["gpt2"]), training, contrast_score="cosine")
    found = Checkpoint(str(tmp_path / "model"))
    assert found.info["system_prompt"] == "Be kind."
    assert found.info["contrast_score"] == "cosine"
    state = found.training_state()
    assert state["number_training_updates"] == 7
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], torch.full((3,), 0.1))


def test_the_contrast_head_comes_back(tiny_backbones, tmp_path):
    backbone = changed(tiny_backbones["gpt2"], contrast_head=True)
    save(tmp_path / "model", backbone)
    found = Checkpoint(str(tmp_path / "model"))
    assert found.has_contrast_head
    loaded = Backbone(found.folder, contrast_head=True)
    found.load_contrast_head(loaded)
    for a, b in zip(
        loaded.contrast_head.parameters(), backbone.contrast_head.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_training_state_is_never_unpickled_freely(tiny_backbones, tmp_path):
    save(tmp_path / "model", Backbone(tiny_backbones["gpt2"]))
    found = Checkpoint(str(tmp_path / "model"))

    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harmed"),))

    torch.save({"optimizer": Harmful()}, found.folder / "training.pt")
    with pytest.raises(UserError, match=r"training\.pt has .* bytes, was written with"):
        found.training_state()
    del found.content["files"]  # as what was written before there were hashes
    with pytest.raises(UserError, match=r"training\.pt: cannot be read .UnpicklingError"):
        found.training_state()
    assert not (tmp_path / "harmed").exists()


def test_a_new_checkpoint_replaces_the_old_one_and_keeps_one_before(tiny_backbones, tmp_path):
    first, second = Backbone(tiny_backbones["gpt2"]).eval(), changed(tiny_backbones["gpt2"])
    save(tmp_path / "model", first)
    old = Checkpoint(str(tmp_path / "model")).folder
    save(tmp_path / "model", second)
    new = Checkpoint(str(tmp_path / "model")).folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", old.name, new.name]
    assert new != old
    save(tmp_path / "model", second)
    third = Checkpoint(str(tmp_path / "model")).folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", new.name, third.name]
    torch.testing.assert_close(scores(Backbone(new).eval()), scores(second), atol=1e-6, rtol=0)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["weights", "training state", "manifest"])
def test_a_kill_while_saving_leaves_the_old_checkpoint(
    tiny_backbones, tmp_path, monkeypatch, moment
):
    first, second = Backbone(tiny_backbones["gpt2"]).eval(), changed(tiny_backbones["gpt2"])
    save(tmp_path / "model", first)

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "weights":
            patch.setattr(type(second.model), "save_pretrained", killed)
        elif moment == "training state":
            patch.setattr(checkpoint_module.torch, "save", killed)
        else:
            patch.setattr("os.replace", killed)
        with pytest.raises(Killed):
            save(tmp_path / "model", second)
    loaded = Backbone(Checkpoint(str(tmp_path / "model")).folder).eval()
    torch.testing.assert_close(scores(loaded), scores(first), atol=1e-6, rtol=0)

    save(tmp_path / "model", second)
    loaded = Backbone(Checkpoint(str(tmp_path / "model")).folder).eval()
    torch.testing.assert_close(scores(loaded), scores(second), atol=1e-6, rtol=0)
    assert len(list(tmp_path.iterdir())) == 3  # what the kill left over is gone


def test_names_that_begin_alike_do_not_touch_each_other(tiny_backbones, tmp_path):
    backbone = Backbone(tiny_backbones["gpt2"])
    for name in ("model", "model.checkpoint", "model", "model.checkpoint"):
        save(tmp_path / name, backbone)
    for name in ("model", "model.checkpoint"):
        assert Checkpoint(str(tmp_path / name)).folder.is_dir()


def test_a_moved_checkpoint_still_loads(tiny_backbones, tmp_path):
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "model", Backbone(tiny_backbones["gpt2"]))
    (tmp_path / "a").rename(tmp_path / "b")
    assert Checkpoint(str(tmp_path / "b" / "model")).folder.is_dir()


def test_files_are_readable_as_the_umask_says(tiny_backbones, tmp_path):
    """safetensors writes files for their owner alone."""
    before = os.umask(0o022)
    try:
        save(tmp_path / "model", changed(tiny_backbones["llama"], lora_rank=2, contrast_head=True))
        save(tmp_path / "full", Backbone(tiny_backbones["llama"]))
    finally:
        os.umask(before)
    for file in tmp_path.rglob("*"):
        expected = 0o755 if file.is_dir() else 0o644
        assert stat.S_IMODE(file.stat().st_mode) == expected, file.name


@pytest.mark.parametrize(
    "content", [b"\x80\x02}q\x00.", b"", b'{"format": "other"}', b"[1]", b'"text"', b"null"]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(UserError, match="not a checkpoint of -m prosocial"):
        Checkpoint(str(tmp_path / "model"))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a checkpoint of -m prosocial"):
        Checkpoint(str(tmp_path))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such checkpoint"):
        Checkpoint(str(tmp_path / "nowhere"))


def test_a_missing_weights_folder_is_named(tiny_backbones, tmp_path):
    save(tmp_path / "model", Backbone(tiny_backbones["gpt2"]))
    folder = Checkpoint(str(tmp_path / "model")).folder
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=rf"{folder.name} is missing"):
        Checkpoint(str(tmp_path / "model"))
