"""One packed pass scores like a pass for every candidate: values, gradients, any order."""

import logging
from dataclasses import fields
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, MistralConfig, MistralForCausalLM

from parlai_prosocial.engines.refill import Refilled
from parlai_prosocial.models.causal import CausalScorer
from parlai_prosocial.models.decode_cache import decodes_alike
from parlai_prosocial.models.packing import pack, pack_separately
from parlai_prosocial.models.scores import token_log_probs
from parlai_prosocial.models.text_config import text_config

CAUSAL = ["gpt2", "llama"]
END = 2


def random_ids(rng, low, high):
    return [rng.randrange(300) for _ in range(rng.randint(low, high))]


def random_batch(seed=0):
    """Six contexts with 1 to 4 candidates, among them replies of the end-of-turn alone."""
    rng = Random(seed)
    contexts = [random_ids(rng, 1, 12) for _ in range(6)]
    candidates = [
        [[*random_ids(rng, 0, 7), END] for _ in range(count)] for count in (1, 4, 2, 3, 1, 2)
    ]
    candidates[2][1] = [END]
    return contexts, candidates


@pytest.fixture(params=CAUSAL)
def lm(request, tiny_backbones):
    return AutoModelForCausalLM.from_pretrained(tiny_backbones[request.param]).eval()


def one_by_one(lm, contexts, candidates):
    """Sums of log p by transformers' own labels=, a pass and no padding for every candidate."""
    sums = []
    for context, responses in zip(contexts, candidates, strict=True):
        for response in responses:
            ids = torch.tensor([[*context, *response]])
            labels = torch.tensor([[-100] * len(context) + response])
            sums.append(-lm(input_ids=ids, labels=labels).loss * len(response))
    return torch.stack(sums)


def test_packed_scores_equal_separate_passes(lm):
    contexts, candidates = random_batch()
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    assert scorer.shares_context
    batch = scorer.pack(contexts, candidates)
    scores = scorer.score(lm, batch)
    expected = one_by_one(lm, contexts, candidates)
    lengths = torch.tensor([len(y) for ys in candidates for y in ys])
    assert scores.token_counts().tolist() == lengths.tolist()
    torch.testing.assert_close(scores.log_probs(), expected, atol=1e-4, rtol=0)
    assert batch.target_ids.tolist() == [t for ys in candidates for y in ys for t in y]


def gradients(lm, scores):
    lm.zero_grad()
    (scores * torch.linspace(-1, 2, len(scores))).sum().backward()
    # What sees images takes no part.
    return [p.grad.clone() for p in lm.parameters() if p.grad is not None]


def assert_gradients_equal_separate_passes(lm, scorer, contexts, candidates):
    scores = scorer.score(lm, scorer.pack(contexts, candidates)).log_probs()
    found = gradients(lm, scores)
    separate = gradients(lm, one_by_one(lm, contexts, candidates))
    assert all(g.abs().max() > 0 for g in found)
    for a, b in zip(found, separate, strict=True):
        # Gradients sum over many tokens: the tolerance is relative to the largest of each.
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, b.abs().max().item()), rtol=0)


def test_packed_gradients_equal_separate_passes(lm):
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    assert scorer.shares_context
    assert_gradients_equal_separate_passes(lm, scorer, *random_batch(1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_scores_equal_one_batch_of_padded_rows(lm, side):
    contexts, candidates = random_batch(6)
    rows = [
        (context, response)
        for context, responses in zip(contexts, candidates, strict=True)
        for response in responses
    ]
    width = max(len(context) + len(response) for context, response in rows)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    targets = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (context, response) in enumerate(rows):
        length = len(context) + len(response)
        start = width - length if side == "left" else 0
        ids[i, start : start + length] = torch.tensor([*context, *response])
        mask[i, start : start + length] = 1
        targets[i, start + len(context) : start + length] = True
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = lm(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    expected, _ = token_log_probs(logits[:, :-1][targets[:, 1:]], ids[targets])
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    scores = scorer.score(lm, scorer.pack(contexts, candidates))
    torch.testing.assert_close(scores.token_log_probs, expected, atol=1e-5, rtol=0)


WINDOWED = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 24,
    "initializer_range": 0.2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(params=["text", "text and images"])
def windowed(request):
    """A model whose layers see a window, one whose text model's do."""
    torch.manual_seed(0)
    if request.param == "text":
        return MistralForCausalLM(MistralConfig(**WINDOWED)).eval()
    kinds = ["sliding_attention", "full_attention"]
    text = WINDOWED | {"head_dim": 8, "layer_types": kinds, "max_position_embeddings": 512}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_block_mask_does_not_widen_a_sliding_window(windowed):
    lm = windowed
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    rng = Random(0)
    long, short = random_ids(rng, 40, 40), random_ids(rng, 3, 3)
    candidates = [[*random_ids(rng, 11, 11), END], [*random_ids(rng, 9, 9), END]]
    for contexts, rows in (([short], 1), ([short * 2], 2), ([long], 2)):
        batch = scorer.pack(contexts, [candidates])
        assert len(batch.input_ids) == rows
        found = scorer.score(lm, batch)
        expected = one_by_one(lm, contexts, [candidates])
        torch.testing.assert_close(found.log_probs(), expected, atol=1e-4, rtol=0)
    assert_gradients_equal_separate_passes(lm, scorer, [long, short], [candidates, candidates])


@torch.no_grad()
def test_a_windowed_model_is_decoded_within_its_window(windowed):
    lm, context = windowed, random_ids(Random(0), 8, 8)
    assert decodes_alike(lm, 0)
    assert lm.config._attn_implementation == text_config(lm)._attn_implementation == "sdpa"
    [[reply]] = Refilled(lm, 0, [], [context], 1, 10).run(lambda logits, *_: logits.argmax(-1))
    expected = list(context)
    while len(expected) < 18:
        expected.append(int(lm(torch.tensor([expected])).logits[0, -1].argmax()))
    assert reply == expected[8:]


def test_states_are_those_of_separate_passes(lm):
    contexts, candidates = random_batch(2)
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    scores = scorer.score(lm, scorer.pack(contexts, candidates))
    j = 0
    for i, context in enumerate(contexts):
        for response in candidates[i]:
            ids = torch.tensor([[*context, *response[:-1]]])
            hidden = lm(ids, output_hidden_states=True).hidden_states[-1][0]
            torch.testing.assert_close(
                scores.context_states[i], hidden[len(context) - 1], atol=1e-5, rtol=1e-4
            )
            own = hidden[len(context) :]
            mean = own.mean(0) if len(own) else torch.zeros_like(hidden[0])
            torch.testing.assert_close(scores.response_states[j], mean, atol=1e-5, rtol=1e-4)
            j += 1


def test_order_of_candidates_does_not_matter(lm):
    contexts, candidates = random_batch(3)
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    scores = scorer.score(lm, scorer.pack(contexts, candidates)).mean_log_probs()
    backwards = [ys[::-1] for ys in candidates]
    turned = scorer.score(lm, scorer.pack(contexts, backwards)).mean_log_probs()
    counts = [len(ys) for ys in candidates]
    for a, b in zip(scores.split(counts), turned.split(counts), strict=True):
        torch.testing.assert_close(a, b.flip(0), atol=1e-5, rtol=0)


def test_order_of_examples_does_not_matter(lm):
    contexts, candidates = random_batch(4)
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    scores = scorer.score(lm, scorer.pack(contexts, candidates)).mean_log_probs()
    turned = scorer.score(lm, scorer.pack(contexts[::-1], candidates[::-1])).mean_log_probs()
    counts = [len(ys) for ys in candidates]
    parts = turned.split(counts[::-1])[::-1]
    torch.testing.assert_close(scores, torch.cat(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pad_id", [0, END, 17])
def test_masks_come_from_lengths_and_never_from_ids(lm, pad_id):
    # Replies and contexts hold the padding and the end-of-turn token in their middle.
    contexts = [[5, pad_id, END, 8], [pad_id], [7, 9]]
    candidates = [[[4, pad_id, END, 6, END], [pad_id, pad_id, END]], [[END, END]], [[3, END]]]
    scorer = CausalScorer(lm, pad_id=pad_id, end_ids=[END])
    scores = scorer.score(lm, scorer.pack(contexts, candidates))
    assert scores.token_counts().tolist() == [5, 3, 2, 2]
    assert scores.reply_token_counts().tolist() == [4, 2, 1, 1]
    expected = one_by_one(lm, contexts, candidates)
    torch.testing.assert_close(scores.log_probs(), expected, atol=1e-4, rtol=0)


def test_the_end_of_turn_counts_in_the_likelihood_alone(lm):
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    other = END + 1
    batch = scorer.pack([[5, 6]], [[[7, END], [7, other]]])
    scores = scorer.score(lm, batch)
    last = lm(torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(-1)
    shared = scores.token_log_probs[0]
    whole = torch.stack([shared + last[END], shared + last[other]])
    torch.testing.assert_close(scores.log_probs(), whole, atol=1e-5, rtol=0)
    score = torch.stack([shared, whole[1] / 2])
    torch.testing.assert_close(scores.mean_log_probs(), score, atol=1e-5, rtol=0)


def test_greedy_hits_are_marked_correct(lm):
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    best = lm(torch.tensor([[5, 6]])).logits[0, -1].argmax().item()
    scores = scorer.score(lm, scorer.pack([[5, 6]], [[[best], [best + 1]]]))
    assert scores.token_correct.tolist() == [True, False]


def test_a_model_that_ignores_the_block_mask_falls_back_and_says_so(lm, monkeypatch, caplog):
    contexts, candidates = random_batch(5)
    shared = CausalScorer(lm, pad_id=0, end_ids=[END])
    expected = shared.score(lm, shared.pack(contexts, candidates))
    inner = type(lm.base_model)
    forward = inner.forward

    def deaf(self, *args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = None
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(inner, "forward", deaf)
    with caplog.at_level(logging.WARNING):
        scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    assert not scorer.shares_context
    assert type(lm).__name__ in caplog.text
    for _ in range(2):
        scores = scorer.score(lm, scorer.pack(contexts, candidates))
    assert caplog.text.count("block attention mask") == 1
    for name, value in scores._asdict().items():
        torch.testing.assert_close(
            value, getattr(expected, name), atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert_gradients_equal_separate_passes(lm, scorer, contexts, candidates)


def test_a_model_that_refuses_the_block_mask_falls_back(lm, monkeypatch, caplog):
    inner = type(lm.base_model)
    forward = inner.forward

    def strict(self, *args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must be 2-dimensional")
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(inner, "forward", strict)
    lm.train()
    scorer = CausalScorer(lm, pad_id=0, end_ids=[END])
    assert not scorer.shares_context
    assert caplog.text.count("block attention mask") == 1
    assert lm.training
    contexts, candidates = random_batch(7)
    assert len(scorer.pack(contexts, candidates).input_ids) == sum(map(len, candidates))


def test_padding_share_counts_unused_places():
    # 3 + 2 = 5 places twice, and 2: rows of 5 + 2 and of 5, the second with 2 of 7 unused.
    contexts = [[1, 2, 3], [4, 5], [1, 2, 3]]
    batch = pack(contexts, [[[6, 7, END]], [[END]], [[6, 7, END]]], pad_id=0)
    assert batch.padding_share == pytest.approx(2 / 14)
    # Two short examples share the row beside the long one.
    batch = pack([[1, 2, 3, 4], [5, 6], [7, 8]], [[[END]], [[END]], [[END]]], pad_id=0)
    assert batch.input_ids.shape == (2, 4)
    assert batch.padding_share == 0


def test_the_context_is_packed_once():
    context, responses = list(range(10, 110)), [[*range(29), END] for _ in range(5)]
    assert pack([context], [responses], 0).input_ids.numel() == 100 + 5 * 29
    assert pack_separately([context], [responses], 0).input_ids.numel() == 5 * 129


def test_to_moves_every_tensor():
    batch = pack([[1]], [[[END]]], 0).to(torch.device("meta"))
    assert all(getattr(batch, f.name).device.type == "meta" for f in fields(batch))
