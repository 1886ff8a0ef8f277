"""Scores, gradients and losses on CUDA: those of the CPU, packed or not, in float32 and bf16."""

from random import Random

import pytest
import torch

from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.classifier import SafetyClassifier

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
END = 2


def random_batch(seed=0):
    """Six contexts with 1 to 4 candidates, one of them the end-of-turn alone."""
    rng = Random(seed)

    def ids(low, high):
        return [rng.randrange(3, 300) for _ in range(rng.randint(low, high))]

    contexts = [ids(1, 12) for _ in range(6)]
    candidates = [[[*ids(0, 7), END] for _ in range(count)] for count in (1, 4, 2, 3, 1, 2)]
    candidates[2][1] = [END]
    return contexts, candidates


def score(backbone, contexts, candidates):
    return backbone(backbone.pack(contexts, candidates).to(backbone.device))


def one_by_one(backbone, contexts, candidates):
    """Mean log p by transformers' own labels=, a pass without padding for every candidate."""
    lm, device, means = backbone.lm, backbone.device, []
    for context, responses in zip(contexts, candidates, strict=True):
        for response in responses:
            if backbone.is_encoder_decoder:
                ids, labels = context, response
            else:
                ids, labels = [*context, *response], [-100] * len(context) + response
            ids, labels = torch.tensor([ids], device=device), torch.tensor([labels], device=device)
            means.append(-lm(input_ids=ids, labels=labels).loss)
    return torch.stack(means)


def gradients(backbone, scores):
    backbone.zero_grad(set_to_none=True)
    (scores * torch.linspace(-1, 2, len(scores), device=scores.device)).sum().backward()
    # Copied, since moving a module to another device moves its gradients in place.
    return {
        n: p.grad.to("cpu", copy=True) for n, p in backbone.named_parameters() if p.grad is not None
    }


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys() != set()
    for name, gradient in expected.items():
        # They sum over many tokens: the tolerance is relative to the largest of each.
        bound = 1e-4 * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found[name], gradient, atol=bound, rtol=0, msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_equals_a_pass_for_each_candidate(tiny_backbones, gpu, name):
    backbone = Backbone(tiny_backbones[name]).eval().to(gpu)
    scores = score(backbone, *random_batch()).mean_log_probs()
    found = gradients(backbone, scores)
    expected = one_by_one(backbone, *random_batch())
    assert scores.device.type == gpu.type and scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert_same_gradients(found, gradients(backbone, expected))


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_are_those_of_the_cpu(tiny_backbones, gpu, name):
    backbone = Backbone(tiny_backbones[name]).eval()
    expected = score(backbone, *random_batch(1))
    expected_gradients = gradients(backbone, expected.mean_log_probs())
    backbone.to(gpu)
    found = score(backbone, *random_batch(1))
    for field in ("token_log_probs", "context_states", "response_states"):
        ours, theirs = getattr(found, field).cpu(), getattr(expected, field)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4, msg=field)
    assert_same_gradients(gradients(backbone, found.mean_log_probs()), expected_gradients)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_near_float32(tiny_backbones, gpu, name, rank):
    """Within 0.1 nats a token: bf16 keeps 8 bits, and the logits of these models reach 10."""
    settings = {"lora_rank": rank, "contrast_head": True}
    torch.manual_seed(0)
    exact = Backbone(tiny_backbones[name], **settings).eval().to(gpu)
    torch.manual_seed(0)
    backbone = Backbone(tiny_backbones[name], bf16=True, **settings).eval().to(gpu)
    expected = score(exact, *random_batch(2)).mean_log_probs()
    with torch.autocast(gpu.type, torch.bfloat16):
        scores = score(backbone, *random_batch(2))
        states = backbone.contrast_head(scores.context_states, scores.response_states)
    found = scores.mean_log_probs()
    assert found.dtype == torch.float32 and all(s.dtype == torch.float32 for s in states)
    assert (found - expected).abs().max() < 0.1
    assert not torch.equal(found, expected)
    found_gradients = gradients(backbone, found)
    assert all(g.isfinite().all() for g in found_gradients.values())
    assert {backbone.get_parameter(n).dtype for n in found_gradients} == {torch.float32}


@pytest.mark.parametrize("loss", [NPairLoss(0.5), RankedMarginLoss(0.1), LikelihoodMarginLoss(1.0)])
def test_losses_are_those_of_the_cpu_also_under_autocast(gpu, loss):
    torch.manual_seed(0)
    inputs = {
        "positive_scores": torch.randn(5),
        "negative_scores": torch.randn(5, 3),
        "negative_mask": torch.rand(5, 3) < 0.7,
        "negative_log_weights": torch.randn(5, 3),
        "in_batch_scores": torch.randn(5, 5),
        "in_batch_mask": ~torch.eye(5, dtype=torch.bool),
    }
    losses, slopes = [], []
    for device in (torch.device("cpu"), gpu):
        # Detached: a leaf on each device, which has a gradient of its own.
        moved = {name: tensor.to(device).detach() for name, tensor in inputs.items()}
        positive = moved["positive_scores"].requires_grad_()
        with torch.autocast(device.type, torch.bfloat16):
            result = loss(Candidates(**moved, in_batch_log_weight=-1.0))
        result.sum().backward()
        assert result.dtype == torch.float32
        losses.append(result.detach().cpu())
        slopes.append(positive.grad.cpu())
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_classifiers_batches_are_those_of_the_cpu(tiny_backbones, tiny_encoder, gpu, name):
    folder = tiny_encoder if name == "bert" else tiny_backbones[name]
    torch.manual_seed(0)
    classifier = SafetyClassifier(folder, ["__ok__", "__notok__"])
    contexts = ["", "Hi!", "I feel tired today.\nYou could rest.", "Hi! " * 80, ""] * 3
    replies = ["Go away.", "Hello there.", "Why?", "I like to walk. " * 9, "No"] * 3
    expected = classifier.logits(contexts, replies)
    found = classifier.to(gpu).logits(contexts, replies, batch_size=4)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
