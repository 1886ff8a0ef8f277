"""Loading, adapting and generating, and what is refused."""

import json
import shutil

import pytest
import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.decoding import generation_settings

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
CONTEXTS = [
    "Hi!",
    "your persona: I sail.\nI feel tired today.\nYou could rest, and drink some water.\nWhy?",
    "What do you like to do on Sundays?",
]


def encode(backbone):
    return [backbone.prompt.encode_context(text) for text in CONTEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_batched_greedy_equals_one_by_one(tiny_backbones, name):
    backbone = Backbone(tiny_backbones[name]).eval()
    contexts = encode(backbone)
    assert len({len(c) for c in contexts}) == len(contexts)
    settings = {"max_new_tokens": 8, "do_sample": False}
    batched = backbone.generate(contexts, **settings)
    alone = [backbone.generate([context], **settings)[0] for context in contexts]
    assert [backbone.reply_ids(r) for r in batched] == [backbone.reply_ids(r) for r in alone]
    assert len({tuple(backbone.reply_ids(r)) for r in alone}) > 1  # contexts are seen


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_greedy_takes_the_most_probable_token_of_a_whole_pass(tiny_backbones, name):
    backbone = Backbone(tiny_backbones[name]).eval()
    [context] = encode(backbone)[1:2]
    expected, ids = [], list(context)
    for _ in range(6):
        token = backbone.lm(torch.tensor([ids])).logits[0, -1].argmax().item()
        expected.append(token)
        ids.append(token)
        if token == backbone.prompt.end_of_turn_id:
            break
    generated = backbone.generate([context], max_new_tokens=6, do_sample=False)
    assert backbone.reply_ids(generated[0]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_samples_and_beams(tiny_backbones, name):
    backbone = Backbone(tiny_backbones[name]).eval()
    torch.manual_seed(0)
    sampled = backbone.generate(
        encode(backbone), max_new_tokens=6, do_sample=True, top_p=0.9, num_return_sequences=2
    )
    assert len(sampled) == 2 * len(CONTEXTS)
    beams = backbone.generate(encode(backbone), max_new_tokens=6, do_sample=False, num_beams=3)
    assert len(beams) == len(CONTEXTS)
    assert beams.size(1) <= 6


def test_a_reply_ends_at_the_first_end_of_turn(tiny_backbones):
    backbone = Backbone(tiny_backbones["gpt2"])
    end = backbone.prompt.end_of_turn_id
    assert backbone.pad_id == end
    assert backbone.reply_ids(torch.tensor([5, 6, end, end, end])) == [5, 6, end]
    assert backbone.reply_ids(torch.tensor([5, 6])) == [5, 6]


@pytest.mark.parametrize("name", NAMES)
def test_lora_trains_the_adapter_alone_and_starts_as_the_base(tiny_backbones, name):
    plain, adapted = (
        Backbone(tiny_backbones[name]).eval(),
        Backbone(tiny_backbones[name], lora_rank=2).eval(),
    )
    contexts = encode(plain)
    responses = [[plain.prompt.encode_response("I like to walk.")] for _ in contexts]
    batch = plain.pack(contexts, responses)
    scores = adapted(batch).mean_log_probs()
    torch.testing.assert_close(scores, plain(batch).mean_log_probs(), atol=1e-5, rtol=0)
    scores.sum().backward()
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert all(p.requires_grad for p in plain.parameters())


def test_bf16_holds_frozen_weights_only(tiny_backbones):
    dtypes = {
        (n.split(".")[-3].startswith("lora_"), p.dtype)
        for n, p in Backbone(
            tiny_backbones["llama"], lora_rank=2, bf16=True
        ).model.named_parameters()
        if "lora_" in n or "proj" in n
    }
    assert (True, torch.bfloat16) not in dtypes
    assert (False, torch.float32) not in dtypes
    full = Backbone(tiny_backbones["llama"], bf16=True)
    assert {p.dtype for p in full.parameters()} == {torch.float32}


def test_inference_trains_nothing(tiny_backbones):
    for rank in (0, 2):
        backbone = Backbone(tiny_backbones["llama"], lora_rank=rank, trainable=False)
        assert not any(p.requires_grad for p in backbone.parameters())


def test_the_hash_is_that_of_the_weights(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    before = weights_sha256(copy)
    assert before == weights_sha256(tiny_backbones["llama"])
    (copy / "README.md").write_text("hello")
    assert weights_sha256(copy) == before
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert weights_sha256(copy) != before


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json there"):
        Backbone(tmp_path)


def test_a_folder_without_weights(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        Backbone(copy)
    one_line(error)


def test_weights_that_are_cut_short(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        Backbone(copy)
    assert f"{copy}: cannot be loaded" in one_line(error)


def test_pickled_weights_are_not_read(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Backbone(copy)


def test_a_config_that_is_no_json(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError) as error:
        Backbone(copy)
    one_line(error)


def test_weights_that_do_not_fit_the_config(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(UserError) as error:
        Backbone(copy)
    assert f"{copy}: cannot be loaded" in one_line(error)


def test_a_tokenizer_of_another_model(tiny_backbones, tmp_path):
    copy = shutil.copytree(tiny_backbones["llama"], tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    for i in range(40):
        tokenizer["model"]["vocab"][f"more{i}"] = 360 + i
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError) as error:
        Backbone(copy)
    assert "its tokenizer has 400 tokens but the model only 360 embeddings" in one_line(error)


LEAKS = {
    "num_beams": 3,
    "do_sample": True,
    "top_p": 0.01,
    "top_k": 2,
    "min_p": 0.5,
    "temperature": 5.0,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "length_penalty": -3.0,
    "early_stopping": True,
    "min_new_tokens": 6,
    "suppress_tokens": [20, 21, 22],
    "bad_words_ids": [[30], [31]],
    "forced_eos_token_id": 2,
    "exponential_decay_length_penalty": [1, 4.0],
    "typical_p": 0.1,
    "epsilon_cutoff": 0.2,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inference", ["greedy", "beam", "topk", "nucleus"])
def test_what_the_base_says_of_decoding_does_not_act(tiny_backbones, name, inference, tmp_path):
    told = shutil.copytree(tiny_backbones[name], tmp_path / "told")
    file = told / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | LEAKS))
    settings = generation_settings({"inference": inference, "beam_size": 2})

    def replies(folder):
        backbone = Backbone(folder, trainable=False)
        torch.manual_seed(0)
        rows = [backbone.generate(encode(backbone), 8, **settings) for _ in range(3)]
        return [backbone.reply_ids(row) for batch in rows for row in batch]

    assert replies(told) == replies(tiny_backbones[name])
    # Older models say it in their config.json.
    file.unlink()
    config = json.loads((told / "config.json").read_text()) | {"num_beams": 3, "min_length": 7}
    (told / "config.json").write_text(json.dumps(config))
    assert replies(told) == replies(tiny_backbones[name])


def test_every_named_stop_ends_a_reply(tiny_backbones, tmp_path):
    folder = shutil.copytree(tiny_backbones["llama"], tmp_path / "stops")
    plain = Backbone(folder, trainable=False)
    assert plain.prompt.stop_ids == [2]
    [whole] = plain.generate([plain.prompt.encode_context("Hi!")], 8, do_sample=False)
    third = whole.tolist()[2]
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [2, third]}))
    told = Backbone(folder, trainable=False)
    assert told.prompt.stop_ids == [2, third]
    assert told.prompt.end_of_turn_id == 2  # what is written at the end of a reply
    [row] = told.generate([told.prompt.encode_context("Hi!")], 8, do_sample=False)
    ids = told.reply_ids(row)
    assert ids == whole.tolist()[: ids.index(third) + 1]
    assert told.prompt.ends_with_stop(ids)
    assert told.prompt.reply([], ids) == told.prompt.tokenizer.decode(ids[:-1]).strip()


def test_contexts_and_replies_fit_the_positions(tiny_backbones):
    causal, encoder, relative = (Backbone(tiny_backbones[n]) for n in ("gpt2", "blenderbot", "t5"))
    assert causal.context_limit(None, 128) == 512 - 128
    assert causal.context_limit(256, 128) == 256
    assert causal.reply_limit(400) == 256 and causal.reply_limit(None) == 256
    assert encoder.context_limit(9999, 128) == 512 and encoder.reply_limit(9999) == 512
    assert relative.context_limit(9999, 9999) == 9999 and relative.reply_limit(None) is None
    with pytest.raises(UserError, match="the model has 512 positions; ask for shorter ones"):
        causal.context_limit(256, 500)
