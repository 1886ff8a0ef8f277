"""A model whose weights are no numbers is refused, whatever kind of model it is."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.models.finite import refuse_non_finite
from parlai_prosocial.zoo.resolve import open_classifier


def spoil(file, value, index=-1):
    tensors = load_file(file)
    name = sorted(tensors)[index]
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_is_enough(value):
    layer = torch.nn.Linear(3, 2)
    refuse_non_finite(layer, "x")
    layer.bias.data[1] = value
    with pytest.raises(UserError, match=r"x: its weights are not finite .bias holds NaN"):
        refuse_non_finite(layer, "x")


def test_a_language_model(tiny_backbones, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_backbones["gpt2"], folder)
    spoil(folder / "model.safetensors", float("nan"))
    with pytest.raises(UserError, match="weights are not finite"):
        Backbone(folder, trainable=False)


def test_a_classifier_by_body_or_head(tiny_encoder, tmp_path):
    for name in ("head.safetensors", "model.safetensors"):
        path = tmp_path / name / "model"
        SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"]).save(str(path), "tiny", {})
        assert open_classifier(str(path))
        [file] = path.parent.glob(f"model.hf-*/{name}")
        spoil(file, float("inf"), 0)
        manifest = json.loads(path.read_text())
        del manifest["files"]  # as what was written before there were hashes
        path.write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="its weights are not finite"):
            open_classifier(str(path))


def test_no_class_without_finite_probabilities(tiny_encoder):
    classifier = SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"]).eval()
    classifier.head.weight.data.fill_(float("inf"))
    with pytest.raises(UserError, match="probabilities are not finite"):
        classifier.label_of("", "Hello.")
