"""Plain attention gives the numbers of torch's fused kernel, and a run takes the faster of both."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from parlai_prosocial.models import attention as attention_module
from parlai_prosocial.models.attention import (
    FUSED,
    PLAIN,
    PlainProduct,
    attention,
    faster_attention,
)
from parlai_prosocial.models.backbone import Backbone

CONTEXTS = ["Hi!", "your persona: I sail.\nI feel tired today.\nWhy?", "What do you like to do?"]
REPLIES = [["I like to walk.", "No."], ["It is kind to rest.", "Steal it."], ["Water.", "Sundays!"]]


@pytest.fixture
def calls(monkeypatch):
    counts = {"plain": 0}
    apply = PlainProduct.apply

    def counted(*args):
        counts["plain"] += 1
        return apply(*args)

    monkeypatch.setattr(PlainProduct, "apply", counted)
    return counts


def loss_and_gradients(backbone, kernel, bf16):
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    replies = [[backbone.prompt.encode_response(text) for text in texts] for texts in REPLIES]
    backbone.zero_grad()
    with attention(kernel), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = -backbone(backbone.pack(contexts, replies)).token_log_probs.mean()
    loss.backward()
    grads = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
    return loss.item(), torch.cat(grads)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_loss_and_gradients_are_those_of_the_fused_kernel(tiny_backbones, calls, name):
    backbone = Backbone(tiny_backbones[name]).eval()
    loss, gradients = loss_and_gradients(backbone, FUSED, bf16=False)
    assert not calls["plain"]
    plain_loss, plain_gradients = loss_and_gradients(backbone, PLAIN, bf16=False)
    assert calls["plain"] == backbone.lm.config.num_hidden_layers
    assert plain_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(plain_gradients, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_in_bf16_plain_is_as_near_to_fp32_as_the_fused_kernel(tiny_backbones, calls, rank):
    backbone = Backbone(tiny_backbones["llama"], lora_rank=rank).eval()
    found = {kernel: loss_and_gradients(backbone, kernel, bf16=True) for kernel in (FUSED, PLAIN)}
    assert calls["plain"] == backbone.lm.config.num_hidden_layers
    assert found[PLAIN][0] == pytest.approx(found[FUSED][0], rel=1e-2)
    assert torch.cosine_similarity(found[PLAIN][1], found[FUSED][1], dim=0) > 0.999
    _, exact = loss_and_gradients(backbone, FUSED, bf16=False)
    errors = {k: (gradients - exact).norm() for k, (_, gradients) in found.items()}
    assert errors[PLAIN] < 1.5 * errors[FUSED]


def test_gradcheck():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill_(~mask, -1e9)
    assert torch.autograd.gradcheck(
        lambda q, k, v: PlainProduct.apply(q, k, v, bias, 0.3), (q, k, v)
    )


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(2, 4, 6, 8) for _ in range(3)]


def mask_of(length=6):
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


@pytest.mark.parametrize("scale", [None, 0.5])
def test_masks_follow_each_other(calls, qkv, scale):
    other = mask_of().clone()
    other[..., 3:, 1] = False
    with attention(PLAIN):
        found = [
            F.scaled_dot_product_attention(*qkv, attn_mask=mask, scale=scale)
            for mask in (mask_of(), other)
        ]
    assert calls["plain"] == 2
    for result, mask in zip(found, (mask_of(), other), strict=True):
        expected = F.scaled_dot_product_attention(*qkv, attn_mask=mask, scale=scale)
        torch.testing.assert_close(result, expected)


def test_a_token_that_sees_nothing_gets_no_nan(qkv):
    mask = mask_of().clone()
    mask[..., 2, :] = False
    with attention(PLAIN):
        assert F.scaled_dot_product_attention(*qkv, attn_mask=mask).isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{"is_causal": True}, {}, {"attn_mask": mask_of(), "dropout_p": 0.5}],
)
def test_what_else_torch_can_do_is_left_to_it(calls, qkv, settings):
    torch.manual_seed(1)
    expected = F.scaled_dot_product_attention(*qkv, **settings)
    torch.manual_seed(1)
    with attention(PLAIN):
        found = F.scaled_dot_product_attention(*qkv, **settings)
    assert torch.equal(found, expected)
    assert not calls["plain"]


CONFIG = SimpleNamespace(num_attention_heads=2, hidden_size=16)


@pytest.mark.parametrize(("plain", "chosen"), [(0.5, PLAIN), (0.9, FUSED), (2.0, FUSED)])
def test_plain_is_taken_where_it_is_clearly_faster(monkeypatch, plain, chosen):
    times = {FUSED: 1.0, PLAIN: plain}
    monkeypatch.setattr(attention_module, "_seconds_of_a_layer", lambda *args: times)
    kernel, why = faster_attention(CONFIG, 3, 20, torch.bfloat16)
    assert kernel == chosen
    assert "3 x 20 tokens" in why and f"plain {1000 * plain:.1f} ms" in why


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_the_trial_times_both_kernels(calls, context):
    with context():
        kernel, _ = faster_attention(CONFIG, 3, 20, torch.bfloat16)
    assert kernel in (FUSED, PLAIN)
    assert calls["plain"] > 0


def test_nothing_is_timed_in_fp32(calls):
    assert faster_attention(CONFIG, 3, 20, torch.float32)[0] == FUSED
    assert not calls["plain"]
