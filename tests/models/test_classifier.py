"""Equal at every batch size, whole after saving, and clear about what it cannot load."""

import json
import shutil
import sys

import pytest
import torch
from peft.tuners.lora.layer import Linear

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.checkpoint import Checkpoint
from parlai_prosocial.models.classifier import (
    ClassifierCheckpoint,
    SafetyClassifier,
    set_temperature,
)
from parlai_prosocial.models.lean_lora import LeanLinear
from parlai_prosocial.zoo.resolve import open_classifier

LABELS = ["__ok__", "__notok__"]
CONTEXTS = ["", "Hi!", "I feel tired today.\nYou could rest.", "Hi! " * 80, ""]
REPLIES = ["Go away.", "Hello there.", "Why?", "I like to walk in the park. " * 9, "No"]


@pytest.fixture(params=["bert", "llama", "gpt2"])
def folder(request, tiny_encoder, tiny_backbones):
    return tiny_encoder if request.param == "bert" else tiny_backbones[request.param]


def changed(folder, **settings):
    """A classifier whose trained weights are no longer those of its folder."""
    torch.manual_seed(1)
    classifier = SafetyClassifier(folder, LABELS, **settings)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return classifier


def test_every_batch_size_gives_the_same_probabilities(folder):
    classifier = changed(folder).train()
    expected = classifier.probabilities(CONTEXTS, REPLIES, batch_size=1)
    for size in (2, 3, 5):
        found = classifier.probabilities(CONTEXTS, REPLIES, batch_size=size)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert found.shape == (5, 2) and found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    assert classifier.training, "the mode is given back"


def test_context_and_line_both_count(folder):
    classifier = changed(folder)
    a, b, c = classifier.logits(["Hi!", "Bye.", "Hi!"], ["Yes.", "Yes.", "No."])
    assert (a - b).abs().max() > 1e-4 and (a - c).abs().max() > 1e-4


def test_no_examples_give_no_rows(tiny_encoder):
    assert SafetyClassifier(tiny_encoder, LABELS).probabilities([], []).shape == (0, 2)


@pytest.mark.parametrize("rank", [0, 2])
def test_loaded_probabilities_are_the_saved_ones(folder, tmp_path, rank):
    classifier = changed(folder, lora_rank=rank, max_tokens=48)
    classifier.temperature = 1.7
    path = str(tmp_path / "model")
    classifier.save(path, "tiny", {"number_training_updates": 3})
    loaded = open_classifier(path)
    assert loaded.labels == LABELS and loaded.max_tokens == 48 and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    expected = classifier.probabilities(CONTEXTS, REPLIES)
    torch.testing.assert_close(loaded.probabilities(CONTEXTS, REPLIES), expected, atol=1e-6, rtol=0)
    assert ClassifierCheckpoint(path).training_state() == {"number_training_updates": 3}
    assert (ClassifierCheckpoint(path).folder / "model.safetensors").exists() == (rank == 0)


@pytest.mark.parametrize("loaded", [False, True])
def test_lean_layers_give_the_loss_and_gradients_of_pefts(
    tiny_encoder, tiny_backbones, tmp_path, loaded
):
    for folder in (tiny_encoder, tiny_backbones["llama"]):
        classifier = changed(folder, lora_rank=2)
        if loaded:
            path = str(tmp_path / folder.name)
            classifier.save(path, "tiny", {})
            classifier = ClassifierCheckpoint(path).classifier(folder)
        pairs = zip(CONTEXTS, REPLIES, strict=True)
        packed = classifier.pack([classifier.encode(*pair) for pair in pairs])

        def loss_and_gradients(classifier=classifier, packed=packed):
            classifier.zero_grad()
            labels = torch.arange(len(CONTEXTS)) % 2
            loss = torch.nn.functional.cross_entropy(classifier(**packed), labels)
            loss.backward()
            named = classifier.named_parameters()
            return loss, {name: p.grad.clone() for name, p in named if p.requires_grad}

        loss, gradients = loss_and_gradients()
        lean = [module for module in classifier.modules() if type(module) is LeanLinear]
        assert lean
        for module in lean:
            module.__class__ = Linear
        expected_loss, expected = loss_and_gradients()
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
        assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


def folders(place):
    return sorted(f.name for f in place.iterdir() if f.is_dir())


def test_saving_again_replaces_and_a_kill_leaves_the_one_before(
    tiny_encoder, tmp_path, monkeypatch
):
    classifier = changed(tiny_encoder)
    path = tmp_path / "model"
    classifier.save(str(path), "tiny", {})
    classifier.save(str(path), "tiny", {})
    assert folders(tmp_path) == ["model.hf-000001", "model.hf-000002"]
    before = open_classifier(str(path)).probabilities(CONTEXTS, REPLIES)

    def killed(*_):
        raise KeyboardInterrupt

    with torch.no_grad():
        classifier.head.bias.add_(1.0)
    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        classifier.save(str(path), "tiny", {})
    monkeypatch.undo()
    torch.testing.assert_close(open_classifier(str(path)).probabilities(CONTEXTS, REPLIES), before)
    classifier.save(str(path), "tiny", {})
    assert folders(tmp_path) == ["model.hf-000002", "model.hf-000003"]


def test_the_temperature_calibrates_and_changes_no_prediction(tiny_encoder, tmp_path):
    path = str(tmp_path / "model")
    changed(tiny_encoder).save(path, "tiny", {})
    plain = open_classifier(path)
    set_temperature(path, 3.0)
    calibrated = open_classifier(path)
    expected = (plain.logits(CONTEXTS, REPLIES) / 3).softmax(1)
    torch.testing.assert_close(calibrated.probabilities(CONTEXTS, REPLIES), expected)
    assert json.loads((tmp_path / "model").read_text())["temperature"] == 3.0


def test_other_labels_get_a_new_head(tiny_encoder, tmp_path):
    path = str(tmp_path / "model")
    trained = changed(tiny_encoder)
    trained.temperature = 2.0
    trained.save(path, "tiny", {})
    checkpoint = ClassifierCheckpoint(path)
    other = checkpoint.classifier(checkpoint.folder, labels=["a", "b", "c"])
    assert other.head.out_features == 3 and other.temperature == 1.0
    key = "embeddings.word_embeddings.weight"
    assert torch.equal(other.encoder.state_dict()[key], trained.encoder.state_dict()[key])


def test_an_adapter_refuses_another_base(tiny_encoder, tmp_path):
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    path = str(tmp_path / "model")
    changed(base, lora_rank=2).save(path, "tiny", {})
    open_classifier(path)
    changed(base).encoder.save_pretrained(base)
    with pytest.raises(UserError, match=r"trained on tiny with weights sha256 .* but"):
        open_classifier(path)
    shutil.rmtree(base)
    with pytest.raises(
        UserError,
        match=r"model: its base tiny: .*/base, which is gone",
    ):
        open_classifier(path)


def test_what_cannot_be_loaded_is_said(tiny_backbones, tmp_path):
    with pytest.raises(UserError, match="an encoder-decoder cannot classify here"):
        SafetyClassifier(tiny_backbones["t5"], LABELS)
    with pytest.raises(UserError, match=r"no config\.json there"):
        SafetyClassifier(tmp_path, LABELS)
    with pytest.raises(UserError, match="no such model file"):
        open_classifier(str(tmp_path / "nothing"))
    (tmp_path / "model").write_text('{"format": "prosocial-checkpoint-1", "weights": "x"}')
    with pytest.raises(UserError, match="not a checkpoint of -m prosocial/classifier"):
        open_classifier(str(tmp_path / "model"))
    with pytest.raises(
        UserError, match=r"^zoo:prosocial/x: .*prosocial.open_classifier\('zoo:prosocial/x'"
    ):
        SafetyClassifier.load("zoo:prosocial/x")


def test_the_generating_agent_refuses_it(tiny_encoder, tmp_path):
    changed(tiny_encoder).save(str(tmp_path / "model"), "tiny", {})
    with pytest.raises(UserError, match="not a checkpoint of -m prosocial; it is one of -m prosoc"):
        Checkpoint(str(tmp_path / "model"))


def test_the_default_model_reads_a_pair():
    from parlai_prosocial.zoo.bases.minilm import find_minilm

    classifier = SafetyClassifier(find_minilm(), LABELS, trainable=False)
    assert not classifier.is_causal and classifier.has_types
    encoded = classifier.encode("Shall I take these pills?", "I don't know.")
    assert set(encoded.types) == {0, 1} and len(encoded.ids) < 24
    assert "sentence_transformers" not in sys.modules
    found = classifier.probabilities(CONTEXTS, REPLIES)
    alone = classifier.probabilities(CONTEXTS, REPLIES, batch_size=1)
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)
