"""Rows that are refilled: every reply is what it is alone, and nothing is computed twice."""

import random

import pytest
import torch

from parlai_prosocial.engines import refill as module
from parlai_prosocial.engines.refill import Refilled, common_start
from parlai_prosocial.models import decode_cache
from parlai_prosocial.models.backbone import Backbone

STOPS = list(range(40, 80))  # of 360 tokens, so that replies end at different times
MOST = 15


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request, tiny_backbones):
    return Backbone(tiny_backbones[request.param], trainable=False).eval().lm


@pytest.fixture
def contexts():
    draw = random.Random(0)
    start = [draw.randrange(100, 350) for _ in range(20)]
    return [start + [draw.randrange(100, 350) for _ in range(1 + i % 6)] for i in range(7)]


def drawn(logits, rows, ages):
    """Gumbel noise of each reply's own."""
    tokens = []
    for scores, (context, sample), age in zip(logits, rows, ages, strict=True):
        noise = torch.Generator().manual_seed(10_000 * context + 100 * sample + age)
        uniform = torch.rand(len(scores), generator=noise)
        tokens.append(int((scores - (-uniform.log()).log()).argmax()))
    return torch.tensor(tokens)


def run(lm, contexts, n):
    with torch.no_grad():
        return Refilled(lm, 0, STOPS, contexts, n, MOST).run(drawn)


@torch.no_grad()
def alone(lm, context, row):
    ids = []
    while len(ids) < MOST and (not ids or ids[-1] not in STOPS):
        logits = lm(input_ids=torch.tensor([context + ids])).logits[:, -1]
        ids.append(int(drawn(logits, [row], [len(ids)])))
    return ids


def test_replies_are_those_of_each_alone(lm, contexts, monkeypatch):
    expected = [[alone(lm, c, (i, k)) for k in range(5)] for i, c in enumerate(contexts)]
    lengths = {len(ids) for replies in expected for ids in replies}
    assert len(lengths) > 5 and MOST in lengths
    monkeypatch.setattr(decode_cache, "_COLUMNS", 2)
    for most in (1, 4, 7, 12, 96):
        monkeypatch.setattr(module, "MOST_ROWS", most)
        assert run(lm, contexts, 5) == expected


def test_rows_that_ended_are_refilled(lm, contexts, monkeypatch):
    sizes = []
    step = module.decode_step

    def counted(lm, cache, name, tokens, positions):
        sizes.append(len(tokens))
        return step(lm, cache, name, tokens, positions)

    monkeypatch.setattr(module, "decode_step", counted)
    monkeypatch.setattr(module, "MOST_ROWS", 8)
    replies = run(lm, contexts, 8)
    lengths = [[len(ids) for ids in group] for group in replies]
    # Each reply's first token comes from its context.
    assert sum(sizes) == sum(map(sum, lengths)) - 56
    assert max(sizes) <= 8
    # One batch after another would wait for the longest of each.
    assert len(sizes) < sum(max(group) - 1 for group in lengths)


def test_contexts_and_what_they_begin_with_are_computed_once(lm, contexts, monkeypatch):
    computed = []
    fill = module.fill
    monkeypatch.setattr(
        module, "fill", lambda lm, c, *more: (computed.append(c), fill(lm, c, *more))[1]
    )
    monkeypatch.setattr(module, "MOST_ROWS", 6)
    replies = {}
    for least in (1, 10**6):
        monkeypatch.setattr(module, "_LEAST_SHARED", least)
        computed.clear()
        replies[least] = run(lm, contexts, 4)
        start = contexts[0][:20]
        if least == 1:
            assert computed.pop(0) == [start]
        else:
            start = []
        assert [start + c for batch in computed for c in batch] == contexts
    assert replies[1] == replies[10**6]


def test_common_start():
    assert common_start([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]]) == 2
    assert common_start([[1, 2], [1, 2, 4]]) == 1  # one token is left to compute
    assert common_start([[3], [4]]) == 0
