"""The cache of replies under way: what is computed with it is what the model itself computes."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from parlai_prosocial.models import decode_cache as module
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.decode_cache import DecodeCache, decode_step, decodes_alike, fill


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request, tiny_backbones):
    return Backbone(tiny_backbones[request.param], trainable=False).eval().lm


def log_probs(lm, states):
    return lm.get_output_embeddings()(states).log_softmax(-1)


@torch.no_grad()
def test_log_probs_are_those_of_whole_passes_while_rows_come_and_go(lm, monkeypatch):
    """Rows of different ages, gaps closed, own tokens moved to their buffers' beginning."""
    monkeypatch.setattr(module, "_COLUMNS", 2)
    noise = torch.Generator().manual_seed(0)

    def draw(count):
        return torch.randint(100, 350, (count,), generator=noise).tolist()

    start = draw(6)
    contexts = {name: start + draw(count) for name, count in zip("abcd", (9, 2, 5, 1), strict=True)}
    begun = fill(lm, [start], 0)
    cache = DecodeCache(rows=5, contexts=3)
    here, rows = [], []  # contexts' names; (name, tokens)

    def enter(names):
        filled = fill(lm, [contexts[name][6:] for name in names], 0, begun)
        cache.add_contexts(filled)
        here.extend(names)

    def begin(names):
        cache.add_rows([here.index(name) for name in names])
        rows.extend((name, []) for name in names)

    def keep(kept):
        rows[:] = [rows[i] for i in cache.keep_rows(kept)]

    def leave(names):
        order = cache.keep_contexts([i for i, name in enumerate(here) if name not in names])
        here[:] = [here[i] for i in order]

    def step():
        tokens = draw(len(rows))
        for (_, ids), token in zip(rows, tokens, strict=True):
            ids.append(token)
        positions = [len(contexts[name]) + len(ids) - 1 for name, ids in rows]
        states = decode_step(lm, cache, begun.name, torch.tensor(tokens), positions)
        for state, (name, ids) in zip(states, rows, strict=True):
            whole = lm(input_ids=torch.tensor([contexts[name] + ids])).logits[0, -1]
            difference = log_probs(lm, state) - whole.log_softmax(-1)
            assert difference.abs().max() < 5e-6

    enter("abc")
    begin("acaba")
    step()
    step()
    keep([1, 2, 4])  # c, a, a
    step()
    leave("b")
    enter("d")
    begin("dc")
    step()
    keep([r for r, (name, ids) in enumerate(rows) if len(ids) == 1])
    assert {name for name, _ in rows} == {"c", "d"}
    leave("a")
    for _ in range(3):
        step()
    assert cache.own[0].size(3) <= 4 + 2  # not the 7 of all steps
    assert cache.before[0].size(3) == 15


def test_a_model_is_tried(lm, monkeypatch):
    assert decodes_alike(lm, 0)
    assert lm.config._attn_implementation == "sdpa"
    attend = module._Layer.attend
    monkeypatch.setattr(
        module._Layer, "attend", lambda self, query, scaling: attend(self, query, 1.01 * scaling)
    )
    assert not decodes_alike(lm, 0)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_in_bf16_is_tried_too(tiny_backbones, bf16):
    """Weights in bf16, and weights in fp32 that are computed with in bf16."""
    lm = Backbone(tiny_backbones["llama"], bf16=bf16, trainable=False).eval().lm
    with torch.autocast("cpu", torch.bfloat16):
        assert decodes_alike(lm, 0)


@pytest.mark.parametrize("bf16", [False, True])
def test_large_keys_in_bf16_take_exact_scores(bf16):
    """Scores of 2,000 and more, which bfloat16 has in steps of 8; as in Qwen2, from a bias."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    lm = Qwen2ForCausalLM(config).eval()
    for layer in lm.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.bias.data.view(-1, 8)[:, 3] = 80  # the dimension that turns most slowly
    assert decodes_alike(lm, 0)
    if bf16:
        lm.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not decodes_alike(lm, 0)
        assert decodes_alike(lm, 0, exact_scores=True)


def test_attention_with_a_cap_is_not_ours():
    config = Gemma2Config(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_implementation="eager",
    )
    lm = Gemma2ForCausalLM(config).eval()
    assert not decodes_alike(lm, 0)
    assert lm.config._attn_implementation == "eager"
