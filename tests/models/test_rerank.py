"""Choosing among sampled replies, against the formula worked by hand."""

import pytest
import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.rerank import (
    check_rerank,
    choose_replies,
    generate_replies,
    standardise,
)

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
CONTEXTS = ["Hi!", "I feel tired today.\nYou could rest, and drink some water.\nWhy?"]


@pytest.fixture
def make_backbone(tiny_backbones):
    def make(name="llama", contrast_head=True):
        torch.manual_seed(0)
        return Backbone(tiny_backbones[name], contrast_head=contrast_head).eval()

    return make


def z(values):
    values = torch.tensor(values, dtype=torch.float64)
    return (values - values.mean()) / values.std(unbiased=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equals_the_formula_reply_by_reply(make_backbone, name, alpha):
    backbone = make_backbone(name)
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    texts = [["Hello!", "I like to walk.", "Go away."], ["Sleep.", "Who cares?", "Water is kind."]]
    replies = [[backbone.prompt.encode_response(y) for y in ys] for ys in texts]
    expected = []
    for context, candidates in zip(contexts, replies, strict=True):
        likelihoods, cosines = [], []
        for candidate in candidates:
            scores = backbone(backbone.pack([context], [[candidate]]))
            left, right = backbone.contrast_head(scores.context_states, scores.response_states)
            likelihoods.append(scores.mean_log_probs().item())
            cosines.append((left @ right.T).item())
        combined = alpha * z(cosines) + (1 - alpha) * z(likelihoods)
        expected.append(combined.argmax().item())
    assert choose_replies(backbone, contexts, replies, alpha) == expected


def test_the_head_changes_the_choice(make_backbone):
    backbone = make_backbone()
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    words = ["Hello!", "I like to walk.", "Go away.", "Rest.", "Why not?", "It is not kind."]
    replies = [[backbone.prompt.encode_response(y) for y in words] for _ in contexts]
    by_alpha = [choose_replies(backbone, contexts, replies, alpha) for alpha in (0.0, 1.0)]
    assert by_alpha[0] != by_alpha[1]


def test_equal_replies_give_the_first(make_backbone):
    backbone = make_backbone()
    context = backbone.prompt.encode_context("Hi!")
    reply = backbone.prompt.encode_response("Hello!")
    other = backbone.prompt.encode_response("Go away.")
    assert choose_replies(backbone, [context], [[reply, reply]], 0.5) == [0]
    for group in ([reply, other, reply], [other, reply, other]):
        assert choose_replies(backbone, [context], [group], 0.5)[0] < 2


def test_a_spread_below_rounding_is_none():
    values = torch.tensor([[-2.0, -2.0, -2.0], [-2.0, -3.0, -4.0], [0.0, 0.0, 0.0]])
    rounded = values.clone()
    rounded[0, 1] = torch.nextafter(rounded[0, 1], torch.tensor(0.0))
    rounded[0, 2] = torch.nextafter(rounded[0, 2], torch.tensor(-9.0))
    assert (rounded[0] != -2.0).sum() == 2
    found = standardise(rounded)
    assert found[0].tolist() == [0.0] * 3 == found[2].tolist()
    torch.testing.assert_close(found[1], z([-2.0, -3.0, -4.0]).float())


def test_the_best_of_the_sampled_replies_is_generated(make_backbone):
    backbone = make_backbone()
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    decoding = {"do_sample": True, "top_p": 0.9, "top_k": 0}
    torch.manual_seed(3)
    sampled = backbone.generate(contexts, 6, num_return_sequences=4, **decoding)
    groups = [[backbone.reply_ids(row) for row in sampled[i : i + 4]] for i in (0, 4)]
    best = choose_replies(backbone, contexts, groups, 0.5)
    torch.manual_seed(3)
    replies = generate_replies(backbone, contexts, 6, rerank=4, alpha=0.5, **decoding)
    assert replies == [group[i] for group, i in zip(groups, best, strict=True)]
    assert len({tuple(reply) for group in groups for reply in group}) > 2


@pytest.mark.parametrize(
    ("head", "count", "alpha", "message"),
    [
        (False, 4, 0.5, "--rerank 4: this model has no contrast head; train it with"),
        (True, 1, 0.5, "--rerank 1: give the number of replies to choose from"),
        (True, -2, 0.5, "--rerank -2: give the number"),
        (True, 4, 1.5, "--rerank-alpha 1.5: must be from 0"),
        (True, 4, float("nan"), "--rerank-alpha nan: must be from 0"),
    ],
)
def test_mistakes_are_named(make_backbone, head, count, alpha, message):
    with pytest.raises(UserError, match=message):
        check_rerank(make_backbone(contrast_head=head), count, alpha)


def test_nothing_is_asked_of_a_model_that_does_not_rerank(make_backbone):
    check_rerank(make_backbone(contrast_head=False), 0, 0.5)
