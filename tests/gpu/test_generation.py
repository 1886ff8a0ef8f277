"""Replies on CUDA: greedy ones are the CPU's, sampled ones belong to their seed."""

import pytest
import torch

from parlai_prosocial.engines.local import TransformersEngine, sample_replies
from parlai_prosocial.engines.reply_scores import score_replies
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.rerank import choose_replies, generate_replies

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
STARTS = ["Hi!", "I feel tired today.", "Why?", "What do you like to do on Sundays?"]
TURNS = ["Hello there.", "You could rest, and drink some water.", "I walked.", "Is it fine?", "No."]
CONTEXTS = [f"{a}\n{b}\n{c}" for a in STARTS for b in TURNS for c in TURNS]  # 100
NUCLEUS = {"do_sample": True, "top_p": 0.9, "top_k": 0}


def share_of_equal(found, expected):
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def encode(backbone):
    return [backbone.prompt.encode_context(text) for text in CONTEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_replies_are_those_of_the_cpu(tiny_backbones, gpu, name):
    backbone = Backbone(tiny_backbones[name], trainable=False).eval()
    contexts = encode(backbone)
    settings = {"do_sample": False, "num_beams": 1}
    expected = generate_replies(backbone, contexts, 12, **settings)
    backbone.to(gpu)
    found = generate_replies(backbone, contexts, 12, **settings)
    assert share_of_equal(found, expected) >= 0.99
    assert len({tuple(reply) for reply in expected}) > 5


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_sampled_replies_belong_to_their_seed(tiny_backbones, gpu, name, bf16):
    backbone = Backbone(tiny_backbones[name], bf16=bf16, trainable=False).eval().to(gpu)
    contexts = CONTEXTS[:32]
    first, again, other = (sample_replies(backbone, contexts, s, bf16) for s in (5, 5, 6))
    assert first == again and first != other


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_contrast_head_chooses_as_on_the_cpu(tiny_backbones, gpu, name):
    torch.manual_seed(0)
    backbone = Backbone(tiny_backbones[name], contrast_head=True, trainable=False).eval()
    contexts = encode(backbone)[:20]
    words = ["Hello!", "I like to walk.", "Go away.", "Rest.", "It is not kind."]
    replies = [[backbone.prompt.encode_response(y) for y in words] for _ in contexts]
    expected = choose_replies(backbone, contexts, replies, 0.5)
    assert len(set(expected)) > 1
    backbone.to(gpu)
    assert share_of_equal(choose_replies(backbone, contexts, replies, 0.5), expected) >= 0.95
    torch.manual_seed(3)
    chosen = generate_replies(backbone, contexts, 8, rerank=4, **NUCLEUS)
    torch.manual_seed(3)
    assert generate_replies(backbone, contexts, 8, rerank=4, **NUCLEUS) == chosen
    assert len(chosen) == len(contexts) and all(chosen)


@pytest.mark.parametrize("name", NAMES)
def test_the_engines_batches_are_its_single_replies_and_the_cpus(tiny_backbones, gpu, name):
    backbone = Backbone(tiny_backbones[name], trainable=False)
    engine = TransformersEngine(backbone, "tiny")
    few = CONTEXTS[::8]
    drawn = {"n": 2, "max_tokens": 12, "seed": 1, "top_p": 0.9}
    expected = [reply for replies in engine.sample(few, **drawn) for reply in replies]
    engine = TransformersEngine(backbone.to(gpu), "tiny")  # which tries our decoding out there
    assert engine._refills(engine._encode(few, 12), 12) == (name in ("gpt2", "llama"))
    # A reply's random numbers are its own and are drawn on the CPU.
    found = [reply for replies in engine.sample(few, **drawn) for reply in replies]
    assert share_of_equal(found, expected) >= 0.96
    greedy = {"n": 1, "max_tokens": 12, "seed": 0, "temperature": 0.0}
    together = engine.sample(few, **greedy)
    assert [engine.sample([context], **greedy)[0] for context in few] == together


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_engine_samples_in_bf16(tiny_backbones, gpu, name):
    backbone = Backbone(tiny_backbones[name], bf16=True, trainable=False).to(gpu)
    engine = TransformersEngine(backbone, "tiny", bf16=True)
    settings = {"n": 3, "max_tokens": 8, "seed": 1, "top_p": 0.9}
    replies = engine.sample(CONTEXTS[:10], **settings)
    assert replies == engine.sample(CONTEXTS[:10], **settings)
    assert len({reply.text for row in replies for reply in row}) > 10
    assert engine._refills(engine._encode(CONTEXTS[:10], 8), 8) == (name == "llama")


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_evaluation_scores_are_those_of_the_cpu(tiny_backbones, gpu, name):
    torch.manual_seed(0)
    backbone = Backbone(tiny_backbones[name], contrast_head=True, trainable=False)
    pairs = [(context, TURNS[:3]) for context in CONTEXTS[:20]]
    expected = [s for row in score_replies(backbone, pairs, bf16=False) for s in row]
    backbone.to(gpu)
    for bf16, bound in ((False, 1e-4), (True, 0.1)):
        found = [s for row in score_replies(backbone, pairs, bf16=bf16) for s in row]
        for ours, theirs in zip(found, expected, strict=True):
            assert abs(ours.mean_log_prob - theirs.mean_log_prob) < bound
            assert abs(ours.cosine - theirs.cosine) < bound
            assert ours.tokens == theirs.tokens
