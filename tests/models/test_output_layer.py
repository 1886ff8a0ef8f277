"""Log p in parts gives the numbers of whole logits, and their gradients."""

import pytest
import torch
from torch import nn

from parlai_prosocial.models import output_layer
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.output_layer import computes_target_log_probs, target_log_probs
from parlai_prosocial.models.scores import token_log_probs


@pytest.fixture
def parts_of_three(monkeypatch):
    monkeypatch.setattr(output_layer, "LOGITS_AT_ONCE", 3 * 11)


def make(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    layer = nn.Linear(5, 11, bias=bias).to(dtype)
    states = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    return layer, states, torch.randint(11, (7,))


def gradients(log_probs, states, layer):
    torch.manual_seed(1)
    wanted = [x for x in (states, *layer.parameters()) if x.requires_grad]
    return torch.autograd.grad((log_probs * torch.randn(7)).sum(), wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_numbers_and_gradients_are_those_of_whole_logits(parts_of_three, bias, trained):
    layer, states, targets = make(bias)
    layer.requires_grad_(trained)
    log_probs, correct = target_log_probs(layer, states, targets)
    expected, expected_correct = token_log_probs(layer(states), targets)
    torch.testing.assert_close(log_probs, expected)
    assert correct.tolist() == expected_correct.tolist()
    assert log_probs.dtype == torch.float32
    found = gradients(log_probs, states, layer)
    for ours, theirs in zip(found, gradients(expected, states, layer), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(found) == (1 + trained * (1 + bias))


def test_a_layer_is_trained_below_frozen_states(parts_of_three):
    layer, states, targets = make()
    states.requires_grad_(False)
    found = gradients(target_log_probs(layer, states, targets)[0], states, layer)
    expected = gradients(token_log_probs(layer(states), targets)[0], states, layer)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_among_equal_logits_argmax_decides():
    layer, _, _ = make()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.bias[[3, 7]] = 1.0
    states, targets = torch.randn(11, 5), torch.arange(11)
    _, correct = target_log_probs(layer, states, targets)
    assert correct.tolist() == (layer(states).argmax(-1) == targets).tolist()
    assert correct.sum() == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_under_autocast_it_is_as_near_as_whole_logits(tiny_backbones, monkeypatch, rank):
    monkeypatch.setattr(output_layer, "LOGITS_AT_ONCE", 1000)
    backbone = Backbone(tiny_backbones["llama"], lora_rank=rank).eval()
    if rank:
        for name, p in backbone.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(p, std=0.1)
    contexts = [backbone.prompt.encode_context(text) for text in ("Hi!", "I feel tired.")]
    replies = [[backbone.prompt.encode_response("I like to walk."), [40, 2]], [[50, 60, 2]]]
    found = []
    for keep_logits in (False, True):
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scores = backbone(backbone.pack(contexts, replies), keep_logits)
        (-scores.token_log_probs.mean()).backward()
        assert (scores.logits is None) != keep_logits
        grads = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
        found.append((scores.token_log_probs.detach(), torch.cat(grads)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-3, rtol=1e-3)
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.999


def test_other_layers_and_mixed_dtypes_are_not_taken():
    layer, states, _ = make()
    assert computes_target_log_probs(layer, states)
    assert not computes_target_log_probs(nn.Sequential(layer), states)
    assert not computes_target_log_probs(layer, states.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert computes_target_log_probs(layer, states.bfloat16())


def test_no_tokens():
    layer, states, targets = make()
    log_probs, correct = target_log_probs(layer, states[:0], targets[:0])
    assert len(log_probs) == len(correct) == 0
    log_probs.sum().backward()
    assert not layer.weight.grad.any()
