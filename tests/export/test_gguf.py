"""GGUF written here, read by transformers' own loader: the same logits, tokens and template."""

import json
import shutil

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.export.gguf import write_gguf
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.zoo.resolve import open_generator


@pytest.fixture(scope="module")
def exported(tiny_backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "llama"
    export_model(open_generator(str(tiny_backbones["llama"])), folder)
    return folder


@pytest.mark.parametrize(("numbers", "tolerance"), [("f32", 1e-3), ("f16", 2e-2)])
def test_logits_are_those_of_the_folder(exported, tmp_path, numbers, tolerance):
    write_gguf(exported, tmp_path / "model.gguf", numbers)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = torch.tensor([[1, 30, 40, 50, 60, 70, 80, 90, 2]])
    expected = AutoModelForCausalLM.from_pretrained(exported).eval()(ids).logits
    torch.testing.assert_close(lm(ids).logits, expected, atol=tolerance, rtol=0)
    assert expected.abs().max() > 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.gguf"]


def test_a_folder_that_transformers_saved_is_written_as_an_exported_one(
    tiny_backbones, exported, tmp_path
):
    lm = AutoModelForCausalLM.from_pretrained(tiny_backbones["llama"])
    lm.save_pretrained(tmp_path / "llama")
    AutoTokenizer.from_pretrained(tiny_backbones["llama"]).save_pretrained(tmp_path / "llama")
    found = []
    for folder in (tmp_path / "llama", exported):
        file = tmp_path / f"{len(found)}.gguf"
        write_gguf(folder, file, "f32")
        fields = GGUFReader(file).fields.items()
        found.append({k: f.contents() for k, f in fields if k.startswith("llama.")})
    assert found[0]["llama.rope.freq_base"] == 10000
    assert found[0] == found[1]


def test_queries_are_permuted_as_llama_cpp_wants_them(exported, tmp_path):
    """Without this a loader that undoes the permutation would hide that it is missing."""
    write_gguf(exported, tmp_path / "model.gguf", "f32")
    tensors = {t.name: t for t in GGUFReader(tmp_path / "model.gguf").tensors}
    lm = AutoModelForCausalLM.from_pretrained(exported)
    queries = lm.model.layers[0].self_attn.q_proj.weight  # 4 heads of 8
    found = torch.tensor(tensors["blk.0.attn_q.weight"].data)
    assert torch.equal(found[0], queries[0])
    assert torch.equal(found[1], queries[4])
    assert torch.equal(found[8 + 3], queries[8 + 5])
    assert "output.weight" not in tensors  # tied


def test_tokenizer_and_template(exported, tmp_path):
    write_gguf(exported, tmp_path / "model.gguf", "f32")
    fields = {k: f.contents() for k, f in GGUFReader(tmp_path / "model.gguf").fields.items()}
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = json.loads((exported / "tokenizer.json").read_text())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id == 2
    assert fields["tokenizer.ggml.padding_token_id"] == tokenizer.pad_token_id == 0
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert "kind, honest" in fields["tokenizer.chat_template"]


def changed(exported, tmp_path, file, change):
    folder = shutil.copytree(exported, tmp_path / "changed")
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c.update(model_type="gpt2"), "is a gpt2"),
        (
            "config.json",
            lambda c: c.update(rope_scaling={"rope_type": "llama3"}),
            "scales its rotary positions",
        ),
        (
            "tokenizer.json",
            lambda t: t["pre_tokenizer"].update(add_prefix_space=True),
            "no known name",
        ),
    ],
)
def test_other_shapes_are_refused(exported, tmp_path, file, change, message):
    folder = changed(exported, tmp_path, file, change)
    with pytest.raises(UserError, match=message):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_single_digits_are_smollms(exported, tmp_path):
    def change(tokenizer):
        digits = {"type": "Digits", "individual_digits": True}
        steps = [digits, tokenizer["pre_tokenizer"]]
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}

    folder = changed(exported, tmp_path, "tokenizer.json", change)
    write_gguf(folder, tmp_path / "model.gguf")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
