"""Lean norms and gated layers give the numbers of transformers' own, and keep less."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.lean_block import (
    Gated,
    LeanGatedLayer,
    LeanNorm,
    ScaledToOne,
    make_lean_blocks,
)

CONTEXTS = ["Hi!", "your persona: I sail.\nI feel tired today.\nWhy?", "What do you like to do?"]
REPLIES = [["I like to walk.", "No."], ["It is kind to rest.", "Steal it."], ["Water.", "Sundays!"]]


def lean_modules(backbone: Backbone) -> Iterator[nn.Module]:
    return (m for m in backbone.modules() if isinstance(m, LeanNorm | LeanGatedLayer))


def with_transformers_forward(backbone: Backbone) -> Backbone:
    for module in lean_modules(backbone):
        [_, plain] = type(module).__bases__
        module.__class__ = plain
    return backbone


def packed(backbone: Backbone):
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    replies = [[backbone.prompt.encode_response(text) for text in texts] for texts in REPLIES]
    return backbone.pack(contexts, replies)


def loss_gradients_and_bytes(backbone: Backbone, bf16: bool):
    """And the bytes that are kept for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held: no address comes twice
        return tensor

    backbone.zero_grad()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        loss = -backbone(packed(backbone)).token_log_probs.mean()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.requires_grad}
    return loss.item(), gradients, sum(size for size, _ in kept.values())


def made(folder, lora_rank: int, bf16: bool) -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone(folder, lora_rank=lora_rank, bf16=bf16)
    with torch.no_grad():
        for p in backbone.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)  # norms are all ones, adapters zero
    return backbone.eval()


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_loss_and_gradients_are_those_of_transformers_in_fp32(tiny_backbones, lora_rank):
    backbone = made(tiny_backbones["llama"], lora_rank, bf16=False)
    assert len(list(lean_modules(backbone))) == 3 * backbone.lm.config.num_hidden_layers
    loss, gradients, kept = loss_gradients_and_bytes(backbone, bf16=False)
    plain = with_transformers_forward(backbone)
    assert not list(lean_modules(plain))
    plain_loss, expected, plain_kept = loss_gradients_and_bytes(plain, bf16=False)
    assert loss == plain_loss, "bit by bit"
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    assert kept < 0.95 * plain_kept


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_in_bf16_the_loss_is_the_same_and_gradients_are_as_near_to_fp32(tiny_backbones, lora_rank):
    folder = tiny_backbones["llama"]
    _, exact, _ = loss_gradients_and_bytes(made(folder, lora_rank, bf16=False), bf16=False)
    backbone = made(folder, lora_rank, bf16=True)
    loss, gradients, kept = loss_gradients_and_bytes(backbone, bf16=True)
    plain_loss, plain, plain_kept = loss_gradients_and_bytes(
        with_transformers_forward(backbone), bf16=True
    )
    assert loss == plain_loss, "bit by bit"

    def distance(found):
        one, two = (torch.cat([g[n].flatten() for n in exact]) for g in (found, exact))
        return (1 - torch.cosine_similarity(one, two, dim=0)).item()

    assert distance(gradients) < 1.5 * distance(plain) < 0.01
    assert kept < 0.9 * plain_kept


def test_greedy_text_is_that_of_transformers(tiny_backbones):
    backbone = made(tiny_backbones["llama"], 0, bf16=False)

    def greedy():
        contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
        return backbone.generate(contexts, max_new_tokens=8, do_sample=False).tolist()

    lean = greedy()
    with_transformers_forward(backbone)
    assert lean == greedy()


def test_gradcheck():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, weight: ScaledToOne.apply(x, weight, 1e-3, torch.float64), inputs
    )
    gate, up = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(Gated.apply, (gate, up))


def test_other_blocks_and_other_activations_are_left_as_they_are(tiny_backbones):
    from transformers import AutoConfig, AutoModelForCausalLM

    assert not list(lean_modules(Backbone(tiny_backbones["gpt2"])))
    config = AutoConfig.from_pretrained(tiny_backbones["llama"])
    config.hidden_act = "gelu"
    lm = AutoModelForCausalLM.from_config(config)
    make_lean_blocks(lm)
    assert not any(isinstance(m, LeanGatedLayer) for m in lm.modules())
    assert any(isinstance(m, LeanNorm) for m in lm.modules())
