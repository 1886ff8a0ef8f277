from itertools import chain

import pytest
import torch

from parlai_prosocial.engines.local import sample_replies
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, score_replies
from parlai_prosocial.models.backbone import Backbone

PAIRS = [
    ("I like walking.", ["Me too!", "Where do you go on Sundays?", "No."]),
    ("Hi\nHello there\nHow are you?", ["Fine, and you?"]),
    ("I took what is not mine.", ["That is not kind.", "You could give it back, and rest."]),
]


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request, tiny_backbones):
    return Backbone(tiny_backbones[request.param], trainable=False)


def test_scores_do_not_depend_on_batches_or_order(model):
    one = score_replies(model, PAIRS, bf16=False, tokens_per_batch=1)
    all_at_once = score_replies(model, PAIRS, bf16=False)
    backwards = score_replies(model, PAIRS[::-1], bf16=False, tokens_per_batch=60)[::-1]
    assert [len(scores) for scores in one] == [3, 1, 2]
    for other in (all_at_once, backwards):
        for a, b in zip(chain(*one), chain(*other), strict=True):
            assert a.tokens == b.tokens
            assert a.nll == pytest.approx(b.nll, rel=1e-4)


def test_the_score_is_a_mean_without_the_end_of_turn_which_the_nll_has(model):
    context, [reply, *_] = PAIRS[0]
    [[score, *_], *_] = score_replies(model, PAIRS, bf16=False)
    ids = model.prompt.encode_response(reply)
    assert ids[-1] == model.prompt.end_of_turn_id
    assert score.tokens == len(ids)
    with torch.no_grad():
        batch = model.pack([model.prompt.encode_context(context)], [[ids]])
        log_probs = model(batch).token_log_probs
    assert score.nll == pytest.approx(-log_probs.sum().item(), rel=1e-4)
    assert score.mean_log_prob == pytest.approx(log_probs[:-1].mean().item(), rel=1e-4)


def test_sampling_is_seeded_and_keeps_the_order(model):
    contexts = [context for context, _ in PAIRS]
    first = sample_replies(model, contexts, seed=1, bf16=False)
    assert first == sample_replies(model, contexts, seed=1, bf16=False)
    assert first != sample_replies(model, contexts, seed=2, bf16=False)
    assert len(first) == 3
    assert all(len(reply.text) <= 40 * SAMPLED_TOKENS for reply in first)
