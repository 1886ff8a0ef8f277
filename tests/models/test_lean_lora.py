"""The lean LoRA layer gives the numbers of peft's own, and hands over what it does not do."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.lean_lora import LeanLinear, LoraProduct, make_lean

CONTEXTS = ["Hi!", "your persona: I sail.\nI feel tired today.\nWhy?", "What do you like to do?"]
REPLIES = [["I like to walk.", "No."], ["It is kind to rest.", "Steal it."], ["Water.", "Sundays!"]]


@pytest.fixture
def calls(monkeypatch):
    """How often a lean layer computed by its own function, and how often by peft's forward."""
    counts = {"lean": 0, "peft": 0}
    apply, forward = LoraProduct.apply, Linear.forward

    def counted_apply(*args):
        counts["lean"] += 1
        return apply(*args)

    def counted_forward(self, *args, **kwargs):
        counts["peft"] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LoraProduct, "apply", counted_apply)
    monkeypatch.setattr(Linear, "forward", counted_forward)
    return counts


def trained(backbone: Backbone) -> dict[str, nn.Parameter]:
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


def adapted(folder, **settings) -> Backbone:
    """A model with an adapter that changes it: peft begins with a B of zeros."""
    torch.manual_seed(0)
    backbone = Backbone(folder, lora_rank=4, **settings)
    with torch.no_grad():
        for p in trained(backbone).values():
            p.normal_(0, 0.1)
    return backbone.eval()


def with_pefts_forward(backbone: Backbone) -> Backbone:
    for module in backbone.modules():
        if type(module) is LeanLinear:
            module.__class__ = Linear
    return backbone


def packed(backbone: Backbone):
    contexts = [backbone.prompt.encode_context(text) for text in CONTEXTS]
    replies = [[backbone.prompt.encode_response(text) for text in texts] for texts in REPLIES]
    return backbone.pack(contexts, replies)


def loss_and_gradients(backbone: Backbone, bf16: bool):
    backbone.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = -backbone(packed(backbone)).token_log_probs.mean()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trained(backbone).items()}


@pytest.mark.parametrize("name", ["llama", "t5", "blenderbot"])
def test_loss_and_gradients_are_pefts_in_fp32(tiny_backbones, calls, name):
    backbone = adapted(tiny_backbones[name])
    loss, gradients = loss_and_gradients(backbone, bf16=False)
    assert calls["lean"] and not calls["peft"]
    expected_loss, expected = loss_and_gradients(with_pefts_forward(backbone), bf16=False)
    assert calls["peft"]
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


def test_loss_and_gradients_are_pefts_in_bf16(tiny_backbones, calls):
    backbone = adapted(tiny_backbones["llama"], bf16=True)
    loss, gradients = loss_and_gradients(backbone, bf16=True)
    assert calls["lean"] and not calls["peft"]
    expected_loss, expected = loss_and_gradients(with_pefts_forward(backbone), bf16=True)
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    ours, pefts = (torch.cat([g[n].flatten() for n in expected]) for g in (gradients, expected))
    assert torch.cosine_similarity(ours, pefts, dim=0) > 0.999


def test_gradcheck():
    torch.manual_seed(0)
    shapes = [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    x, weight, bias, a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    for tensor in (x, a, b):
        tensor.requires_grad_()
    for given_bias in (bias, None):
        assert torch.autograd.gradcheck(
            lambda x, a, b, bias=given_bias: LoraProduct.apply(
                x, weight, bias, a, b, 1.7, torch.float64
            ),
            (x, a, b),
        )


def test_greedy_text_and_disabled_adapters_are_pefts(tiny_backbones, calls):
    backbone = adapted(tiny_backbones["llama"])
    plain = Backbone(tiny_backbones["llama"]).eval()

    def greedy(model):
        contexts = [model.prompt.encode_context(text) for text in CONTEXTS]
        return model.generate(contexts, max_new_tokens=8, do_sample=False).tolist()

    with backbone.model.disable_adapter():
        disabled = greedy(backbone)
    assert not calls["lean"]
    lean = greedy(backbone)
    assert calls["lean"]
    assert disabled == greedy(plain)
    assert lean != disabled
    assert lean == greedy(with_pefts_forward(backbone))


def test_saved_merged_and_loaded_as_pefts(tiny_backbones, tmp_path):
    backbone = adapted(tiny_backbones["llama"])
    expected = backbone(packed(backbone)).token_log_probs.detach()
    backbone.model.save_pretrained(tmp_path)
    loaded = Backbone(tiny_backbones["llama"], adapter=tmp_path).eval()
    assert any(type(module) is LeanLinear for module in loaded.modules())
    assert torch.equal(loaded(packed(loaded)).token_log_probs, expected)
    by_peft = PeftModel.from_pretrained(Backbone(tiny_backbones["llama"]).lm, str(tmp_path))
    assert {n: p.tolist() for n, p in by_peft.state_dict().items()} == {
        n: p.tolist() for n, p in backbone.model.state_dict().items()
    }
    scorer, merged = backbone.scorer, backbone.model.merge_and_unload()
    assert not any(isinstance(module, Linear) for module in merged.modules())
    log_probs = scorer.score(merged, packed(backbone)).token_log_probs
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(x)


def peft_block(**settings):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False, **settings)
    model = get_peft_model(Block(), config)
    make_lean(model)
    return model


def merged(model):
    model.merge_adapter()


def two_adapters(model):
    model.add_adapter("second", LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])


def unfrozen(model):
    model.base_model.model.linear.base_layer.weight.requires_grad_()


@pytest.mark.parametrize(
    "settings, change",
    [
        ({"lora_dropout": 0.5}, None),
        ({"use_dora": True}, None),
        ({"lora_bias": True}, None),
        ({}, merged),
        ({}, two_adapters),
        ({}, unfrozen),
    ],
)
def test_what_else_peft_can_do_is_left_to_it(calls, settings, change):
    model = peft_block(**settings)
    if change:
        change(model)
    x = torch.randn(3, 6)
    torch.manual_seed(1)
    result = model(x)
    assert calls == {"lean": 0, "peft": 1}
    model.base_model.model.linear.__class__ = Linear
    torch.manual_seed(1)
    assert torch.equal(result, model(x))


def test_another_adapter_is_used_once_it_is_switched_to(calls):
    model = peft_block()
    model.add_adapter("second", LoraConfig(r=3, target_modules=["linear"], init_lora_weights=False))
    x = torch.randn(3, 6)
    results = []
    for name in ("default", "second"):
        model.set_adapter(name)
        results.append(model(x))
        model.base_model.model.linear.__class__ = Linear
        torch.testing.assert_close(results[-1], model(x))
        make_lean(model)
    assert calls == {"lean": 2, "peft": 2}
    assert not torch.allclose(*results)


def test_mixed_dtypes_without_autocast_are_left_to_peft(calls):
    model = peft_block()
    model.base_model.model.linear.base_layer.to(torch.bfloat16)
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    assert model(x).dtype == torch.bfloat16
    assert calls == {"lean": 0, "peft": 1}


def test_conv1d_and_other_layers_stay_pefts(tiny_backbones):
    backbone = Backbone(tiny_backbones["gpt2"], lora_rank=2)
    assert not any(type(module) is LeanLinear for module in backbone.modules())
