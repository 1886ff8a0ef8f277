"""One encoder pass for all candidates scores like a whole pass for every candidate."""

from random import Random

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
)

from parlai_prosocial.models.seq2seq import Seq2SeqScorer, pad_right

SIZES = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.2,
}


@pytest.fixture(params=["t5", "bart", "blenderbot", "blenderbot-small"])
def lm(request, tiny_backbones):
    torch.manual_seed(0)
    # BlenderBot normalises before each layer, as T5 does, its small one after, as BART does.
    if request.param == "bart":
        return BartForConditionalGeneration(BartConfig(**SIZES)).eval()
    if request.param == "blenderbot-small":
        return BlenderbotSmallForConditionalGeneration(BlenderbotSmallConfig(**SIZES)).eval()
    return AutoModelForSeq2SeqLM.from_pretrained(tiny_backbones[request.param]).eval()


def random_batch(lm, seed=0):
    """Four contexts with 1 to 3 candidates; padding and end-of-turn ids occur inside too."""
    rng = Random(seed)
    end, pad = lm.config.eos_token_id, lm.config.pad_token_id
    contexts = [[rng.randrange(300) for _ in range(rng.randint(1, 9))] for _ in range(4)]
    candidates = [
        [[*(rng.randrange(300) for _ in range(rng.randint(0, 6))), end] for _ in range(count)]
        for count in (2, 1, 3, 1)
    ]
    candidates[0][1] = [4, pad, end, 7, end]
    candidates[2][0] = [end]
    contexts[1] = [pad, 5, end, pad]
    return contexts, candidates


def one_by_one(lm, contexts, candidates):
    """Mean log p by transformers' own labels=, a pass and no padding for every candidate."""
    return -torch.stack(
        [
            # decoder_input_ids are given, since some models put padding where labels are -100.
            lm(
                input_ids=torch.tensor([context]),
                attention_mask=torch.ones(1, len(context), dtype=torch.long),
                decoder_input_ids=torch.tensor([[lm.config.decoder_start_token_id, *y[:-1]]]),
                labels=torch.tensor([y]),
            ).loss
            for context, responses in zip(contexts, candidates, strict=True)
            for y in responses
        ]
    )


def means(scores):
    """(C,) mean log p over all tokens, end-of-turn included."""
    return scores.log_probs() / scores.token_counts()


def score(lm, contexts, candidates):
    scorer = Seq2SeqScorer(lm, lm.config.pad_token_id, [lm.config.eos_token_id])
    return scorer.score(lm, scorer.pack(contexts, candidates))


def test_scores_equal_separate_passes(lm):
    contexts, candidates = random_batch(lm)
    scores = score(lm, contexts, candidates)
    assert scores.token_counts().tolist() == [len(y) for ys in candidates for y in ys]
    expected = one_by_one(lm, contexts, candidates)
    torch.testing.assert_close(means(scores), expected, atol=1e-5, rtol=0)


def test_labels_alone_give_the_same_score(lm):
    # transformers shifts the labels itself here: the start token must be the model's own.
    response = [9, 8, 7, lm.config.eos_token_id]
    loss = lm(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([response])).loss
    scores = score(lm, [[3, 4, 5]], [[response]])
    torch.testing.assert_close(means(scores), -loss[None], atol=1e-5, rtol=0)


def test_gradients_equal_separate_passes(lm):
    contexts, candidates = random_batch(lm, 1)
    weights = torch.linspace(-1, 2, sum(map(len, candidates)))

    def gradients(scores):
        lm.zero_grad()
        (scores * weights).sum().backward()
        return {n: p.grad.clone() for n, p in lm.named_parameters() if p.grad is not None}

    shared = gradients(means(score(lm, contexts, candidates)))
    separate = gradients(one_by_one(lm, contexts, candidates))
    assert shared.keys() == separate.keys()
    for name, a in shared.items():
        # Gradients sum over many tokens: the tolerance is relative to the largest of each.
        b = separate[name]
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a, b, atol=1e-5 * scale, rtol=0, msg=lambda m, n=name: n + m)


def test_order_does_not_matter(lm):
    contexts, candidates = random_batch(lm, 2)
    scores = score(lm, contexts, candidates)
    turned = score(lm, contexts[::-1], [ys[::-1] for ys in candidates[::-1]])
    torch.testing.assert_close(
        scores.mean_log_probs(), turned.mean_log_probs().flip(0), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        scores.context_states, turned.context_states.flip(0), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        scores.response_states, turned.response_states.flip(0), atol=1e-5, rtol=1e-4
    )


def test_the_encoder_reads_each_context_once(lm, monkeypatch):
    contexts, candidates = random_batch(lm)
    encoder = lm.get_encoder()
    forward, rows = type(encoder).forward, []

    def counted(self, *args, **kwargs):
        if self is encoder:
            rows.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder), "forward", counted)
    score(lm, contexts, candidates)
    assert rows == [4]


def test_padding_share():
    ids, mask = pad_right([[1, 2, 3], [4]], pad_id=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_padding_share_counts_unused_places(lm):
    end = lm.config.eos_token_id
    batch = Seq2SeqScorer(lm, 0, [end]).pack([[5, 6, 7, 8], [5, 6]], [[[4, end]], [[end]]])
    assert batch.padding_share == pytest.approx((2 + 1) / (8 + 4))
