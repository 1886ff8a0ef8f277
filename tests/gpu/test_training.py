"""Every agent trains on CUDA, saves, and scores the same where there is no GPU any more."""

import json
import math

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.core.params import ParlaiParser
from parlai.scripts.train_model import TrainModel

from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.zoo.resolve import open_classifier

SETTINGS = {
    "task": "mic:Contrastive",
    "prosocial_sample": True,
    "batchsize": 2,
    "max_train_steps": 3,
    "lr_scheduler": "none",
    "text_truncate": 64,
    "label_truncate": 12,
    "validation_max_exs": 4,
    "validation_metric": "loss",
    "short_final_eval": True,
    "datatype": "train:ordered:stream",
    "seed": 1,
}
TINY_TRANSFORMER = {
    "embedding_size": 16,
    "ffn_size": 16,
    "n_heads": 2,
    "n_layers": 1,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
MESSAGE = {"text": "I feel tired.\nRest.\nWhy?", "episode_done": True}


def train(path, **settings):
    """Train as ``parlai train_model`` does and check that it was done on the GPU."""
    reports = TrainModel.main(model_file=str(path), **SETTINGS | settings)
    for report in reports:
        assert math.isfinite(report["loss"].value())
        assert report["gpu_mem"].value() > 0
    return str(path)


def reopen(path, on_cpu, **settings):
    settings |= {"no_cuda": on_cpu, "datatype": "valid", "skip_generation": False}
    agent = create_agent_from_model_file(path, settings)
    assert agent.use_cuda != on_cpu
    return agent


def examples(encode_context, encode_response):
    """Three contexts of different lengths, with two negatives, none and one."""
    rows = [
        ("Hi!", ["Hello there.", "Go away.", "No."]),
        ("I feel tired.\nRest.\nWhy?", ["You could drink some water, and walk."]),
        ("Is it fine to steal?", ["It is not kind.", "Take what you like to have."]),
    ]
    return [
        Example(
            encode_context(context),
            encode_response(replies[0]),
            replies[0],
            "",
            frozenset(),
            [encode_response(reply) for reply in replies[1:]],
            [0.0] * (len(replies) - 1),
        )
        for context, replies in rows
    ]


@torch.no_grad()
def scores_of(agent):
    agent.model.eval()

    def encode(text):
        return agent._vectorize_text(text, add_end=True).tolist()

    contexts = getattr(agent, "backbone", None)
    encode_context = contexts.prompt.encode_context if contexts else encode
    return agent.score_examples(examples(encode_context, encode))[0].token_log_probs.cpu()


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_model_trained_on_the_gpu_scores_the_same_on_the_cpu(
    tiny_backbones, gpu, tmp_path, name, rank, precision
):
    path = train(
        tmp_path / "model",
        model="prosocial",
        backbone=str(tiny_backbones[name]),
        lora_rank=rank,
        precision=precision,
        contrast_score="likelihood+cosine",
        in_batch_negatives=1,
        learningrate=1e-2,
        skip_generation=True,
    )
    here, there = (reopen(path, on_cpu, precision="fp32") for on_cpu in (False, True))
    assert here.backbone.device.type == gpu.type and there.backbone.device.type == "cpu"
    torch.testing.assert_close(scores_of(here), scores_of(there), atol=1e-4, rtol=0)
    base = Backbone(tiny_backbones[name]).eval()
    encode = base.prompt.encode_response
    batch = base.pack(
        *zip(
            *[
                (e.context, [e.response, *e.negatives])
                for e in examples(base.prompt.encode_context, encode)
            ],
            strict=True,
        )
    )
    with torch.no_grad():
        assert (base(batch).token_log_probs - scores_of(there)).abs().max() > 1e-3


def test_training_goes_on_from_a_checkpoint(tiny_backbones, gpu, tmp_path):
    settings = {"model": "prosocial", "backbone": str(tiny_backbones["llama"]), "lora_rank": 2}
    settings |= {"validation_cutoff": -1.0, "skip_generation": True}
    path = train(tmp_path / "model", **settings)
    before = scores_of(reopen(path, True, precision="fp32"))
    train(path, max_train_steps=6, learningrate=1e-2, **settings)
    after = scores_of(reopen(path, True, precision="fp32"))
    assert not torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("fp16", [False, True])
def test_parlais_transformer(gpu, tmp_path, fp16):
    path = train(
        tmp_path / "model",
        model="prosocial/transformer",
        fp16=fp16,
        learningrate=1e-2,
        in_batch_negatives=1,
        skip_generation=True,
        **TINY_TRANSFORMER,
    )
    # Trained with --fp16, it has words to fill its dictionary up to a multiple of 8.
    flags = {"fp16": False, "force_fp16_tokens": fp16}
    here, there = (reopen(path, on_cpu, **flags) for on_cpu in (False, True))
    torch.testing.assert_close(scores_of(here), scores_of(there), atol=1e-4, rtol=0)
    here.observe(Message(MESSAGE))
    there.observe(Message(MESSAGE))
    assert here.act()["text"] == there.act()["text"]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_classifier(tiny_encoder, gpu, tmp_path, rank):
    path = train(
        tmp_path / "model",
        model="prosocial/classifier",
        task="prosocial:BinarySafety",
        backbone=str(tiny_encoder),
        lora_rank=rank,
        class_weights=[1.0, 2.0],
        learningrate=1e-2,
        validation_cutoff=0.0,
    )
    here, there = (reopen(path, on_cpu, print_scores=True) for on_cpu in (False, True))
    texts = ["I feel tired.", "Go away.", "Hi! " * 30], ["Why?", "No.", "Hello."]
    found = here.classifier.logits(*texts)
    torch.testing.assert_close(found, there.classifier.logits(*texts), atol=1e-4, rtol=0)
    loaded = open_classifier(path).to(gpu)
    torch.testing.assert_close(loaded.logits(*texts), found, atol=1e-4, rtol=0)
    here.observe(Message(MESSAGE))
    assert here.act()["text"].startswith("Predicted class: __")


@pytest.mark.parametrize("inference", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_agent_evaluates_with_candidates_and_token_losses(
    tiny_backbones, gpu, tmp_path, name, inference
):
    candidates = ["I like to walk.", "You could rest.", "It is fine."]
    message = MESSAGE | {"eval_labels": candidates[:1], "label_candidates": candidates}
    opt = {
        "model": "prosocial",
        "backbone": str(tiny_backbones[name]),
        "lora_rank": 0,
        "datatype": "valid",
        "inference": inference,
        "beam_size": 2,
        "rank_candidates": True,
        "verbose": True,
        "text_truncate": 96,
        "label_truncate": 12,
    }
    replies = []
    for no_cuda in (False, True):
        parser = ParlaiParser(True, True)
        agent = create_agent(parser.parse_kwargs(**opt, no_cuda=no_cuda, precision="fp32"))
        assert agent.use_cuda != no_cuda
        agent.observe(Message(message))
        replies.append(agent.act())
    here, there = replies
    assert list(here["text_candidates"]) == list(there["text_candidates"])
    losses = [[loss for _, loss in reply["token_losses"]] for reply in replies]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    if inference != "nucleus":
        assert here["text"] == there["text"]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("baseline", ["dpo", "simpo"])
def test_a_baseline_trains(tiny_backbones, gpu, tmp_path, monkeypatch, baseline, precision):
    pytest.importorskip("trl")
    from parlai_prosocial.training.trl import BATCH_SIZE, train_baseline

    few = []

    def overfit(pairs, budget):
        few.extend(next(pairs) for _ in range(BATCH_SIZE))
        return few * 8

    monkeypatch.setattr("parlai_prosocial.training.trl.take_pairs", overfit)
    preset = tmp_path / "step1.opt"
    settings = {
        "model": "prosocial",
        "task": "mic:Contrastive",
        "prosocial_sample": True,
        "lora_rank": 4,
        "learningrate": 0.02,
        "warmup_updates": 1,
        "batchsize": 4,
        "text_truncate": 64,
        "label_truncate": 16,
        "seed": 3,
        "precision": precision,
    }
    preset.write_text(json.dumps(settings))
    arguments = ["-o", str(preset), "--backbone", str(tiny_backbones["llama"])]
    path = str(tmp_path / "baseline" / "model")
    training = train_baseline(baseline, arguments, 1, path, baseline)
    assert training.steps == 8

    def margin(backbone):
        packed = backbone.pack([p.prompt for p in few], [[p.chosen, p.rejected] for p in few])
        with torch.no_grad():
            scores = backbone(packed.to(backbone.device)).mean_log_probs().view(-1, 2)
        return (scores[:, 0] - scores[:, 1]).cpu()

    here, there = (reopen(path, on_cpu, precision="fp32") for on_cpu in (False, True))
    here.model.eval()
    there.model.eval()
    torch.testing.assert_close(margin(here.backbone), margin(there.backbone), atol=1e-4, rtol=0)
    before = margin(Backbone(tiny_backbones["llama"]).eval())
    assert (margin(there.backbone) - before).mean() > 0.2
