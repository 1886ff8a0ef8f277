"""``-m prosocial/classifier`` in this process: classes, training, and ParlAI's own users of it."""

import json

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.teachers import create_task_agent_from_taskname
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from parlai.utils.safety import OffensiveLanguageClassifier

from parlai_prosocial.agents.classifier import ClassifierAgent
from parlai_prosocial.data import diasafety
from parlai_prosocial.data.example import BINARY_LABELS, SAFETY_LABELS
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import (
    ClassifierCheckpoint,
    set_temperature,
)
from parlai_prosocial.training.recipe import RECIPES
from parlai_prosocial.zoo.resolve import open_classifier

SETTINGS = {
    "model": "prosocial/classifier",
    "task": "prosocial:BinarySafety",
    "prosocial_sample": True,
    "batchsize": 4,
    "learningrate": 3e-3,
    "text_truncate": 64,
    "datatype": "train:ordered:stream",
}
TRAINING = {
    "max_train_steps": 4,
    "lr_scheduler": "none",
    "validation_max_exs": 8,
    "validation_metric": "loss",
    "validation_cutoff": 0.0,
    "short_final_eval": True,
}
TEXTS = ["I feel tired.\nYou could rest.", "Go away.", "Is it fine to steal?\nNo.\nWhy not?"]


def assert_same_weights(first, second):
    ours, theirs = (open_classifier(path).state_dict() for path in (first, second))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-7, rtol=0, msg=name)


@pytest.fixture
def make(tiny_encoder):
    """``make(**opt)``: an agent as ParlAI makes it, for training unless told otherwise."""

    def build(**opt):
        opt = {"backbone": str(tiny_encoder), **SETTINGS, **opt}
        return create_agent(ParlaiParser(True, True).parse_kwargs(**opt))

    return build


@pytest.fixture(scope="module")
def train(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")

    def run(name, **settings):
        settings = {"backbone": str(tiny_encoder), **SETTINGS, **TRAINING, **settings}
        report = TrainModel.main(model_file=str(folder / name), **settings)
        return str(folder / name), report

    return run


@pytest.fixture(scope="module")
def binary(train):
    """A trained classifier of ``__ok__`` and ``__notok__``, with a temperature."""
    model_file, _ = train("binary")
    set_temperature(model_file, 1.5)
    return model_file


def test_classes_are_asked_for_or_the_tasks_or_the_five(make, tmp_path):
    assert make().class_list == BINARY_LABELS
    assert make(task="prosocial:Safety").class_list == SAFETY_LABELS
    assert make(task="prosocial:Rot").class_list == SAFETY_LABELS, "that task has no candidates"
    assert make(task="prosocial:Rot", binary=True).class_list == BINARY_LABELS
    assert make(classes=["a", "b"]).class_list == ["a", "b"]
    (tmp_path / "classes").write_text("x\ny\n\n")
    assert make(classes_from_file=str(tmp_path / "classes")).class_list == ["x", "y"]


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ({"class_weights": [1.0]}, "--class-weights 1.0: give one weight"),
        ({"classes": ["a", "a"]}, "--classes a a: give at least two"),
        ({"ref_class": "__notok__"}, "--ref-class __notok__: name it first in --classes"),
        ({"lora_rank": -1}, "--lora-rank -1"),
        ({"text_truncate": 4}, "--text-truncate 4: give 16 tokens or more"),
        ({"update_classifier_head_only": True}, "--update-classifier-head-only: use --lora-rank"),
        ({"datatype": "valid"}, "give a trained classifier's file by -mf"),
        ({"interactive_mode": True}, "give a trained classifier's file by -mf"),
    ],
)
def test_mistakes_are_named(make, opt, message):
    with pytest.raises(UserError, match=message):
        make(**opt)


def test_a_label_that_is_no_class_is_named(train):
    with pytest.raises(UserError, match=r"is not among the classes __ok__ __notok__; give"):
        train("wrong", task="prosocial:Safety", binary=True)


def test_reports_have_parlais_metrics(binary):
    report = EvalModel.main(
        model_file=binary,
        task=SETTINGS["task"],
        prosocial_sample=True,
        datatype="valid",
        batchsize=1,  # ParlAI reports an AUC for no other
        area_under_curve_digits=3,
        area_under_curve_class=["__notok__"],
    )
    names = [f"class_{label}_{kind}" for label in BINARY_LABELS for kind in ("prec", "f1")]
    assert {"accuracy", "weighted_f1", "loss", "AUC___notok__", *names} <= report.keys()
    assert 0 < float(report["accuracy"]) <= 1 and report["exs"] == 26


def test_training_lowers_the_loss(make):
    agent = make(datatype="train")
    messages = [
        {"text": text, "labels": [BINARY_LABELS[i % 2]], "episode_done": True}
        for i, text in enumerate(TEXTS)
    ]

    def step():
        replies = agent.batch_act([agent.clone().observe(dict(m)) for m in messages])
        return sum(float(reply["metrics"]["loss"]) for reply in replies)

    first = step()
    for _ in range(15):
        last = step()
    assert last < first / 2


def test_class_weights_weigh_the_loss(make):
    observe = {"text": TEXTS[0], "labels": ["__notok__"], "episode_done": True}
    losses = []
    for weights in ([1.0, 1.0], [1.0, 3.0]):
        agent = make(class_weights=weights, datatype="train")
        agent.observe(dict(observe))
        losses.append(float(agent.act()["metrics"]["loss"]))
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-4)


def test_gradients_accumulate_under_update_freq(make):
    def gradients(groups, **opt):
        agent = make(datatype="train", optimizer="sgd", gradient_clip=-1, **opt)
        for group in groups:
            agent.batch_act(
                [
                    agent.clone().observe({"text": t, "labels": ["__ok__"], "episode_done": True})
                    for t in group
                ]
            )
        return agent.classifier.head.weight.detach()

    joint = gradients([TEXTS[:2]])
    parts = gradients([TEXTS[:1], TEXTS[1:2]], update_freq=2)
    torch.testing.assert_close(parts, joint, atol=1e-6, rtol=0)


def test_stopping_and_resuming_changes_nothing(train, tmp_path):
    # One training row is every batch, wherever ParlAI goes on in it.
    row = {"context": ["Hi!"], "response": "Hello.", "safety_label": "__needs_caution__"}
    file = tmp_path / "own.jsonl"
    rows = [row | {"split": split} for split in ("train", "valid", "test")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prosocial_data": str(file), "prosocial_sample": False, "batchsize": 1}
    settings |= {"datatype": "train", "lr_scheduler": "linear", "warmup_updates": 2}
    settings |= {"max_train_steps": 6, "validation_every_n_steps": 1, "save_after_valid": True}
    whole, _ = train("whole", **settings)
    parts, _ = train("parts", **settings, num_epochs=4)
    parts, _ = train("parts", **settings, num_epochs=-1)
    # ParlAI saves after each validation, but not after the last step.
    whole, parts = whole + ".checkpoint", parts + ".checkpoint"
    for path in (whole, parts):
        assert ClassifierCheckpoint(path).training_state()["number_training_updates"] == 5
    assert_same_weights(whole, parts)


def test_a_run_that_goes_on_computes_as_it_began(train, monkeypatch):
    for answer, steps in ((True, 2), (False, 4)):
        monkeypatch.setattr(
            "parlai_prosocial.agents.glue.bf16_is_faster", lambda device, answer=answer: answer
        )
        model_file, _ = train("begun", precision="auto", max_train_steps=steps)
    saved = ClassifierCheckpoint(model_file)
    assert saved.training_state()["number_training_updates"] == 4
    assert saved.info["precision"] == "bf16"


def test_training_on_drops_the_temperature(train, binary):
    continued, _ = train("continued", init_model=binary)
    assert open_classifier(binary).temperature == 1.5
    assert open_classifier(continued).temperature == 1.0


def test_flags_that_do_not_act_are_refused(make, binary):
    for flags, message in (
        ({"lora_rank": 2, "init_model": binary}, "--lora-rank 2: does not act on .*, which has 0"),
        ({"backbone": "some/other", "init_model": binary}, "--backbone some/other: does not act"),
        ({"binary": True, "classes": ["a", "b"]}, "--binary true: does not act beside --classes a"),
    ):
        with pytest.raises(UserError, match=message):
            make(**flags)


def test_init_model_keeps_the_encoder_under_a_new_head(train, make, binary):
    agent = make(init_model=binary, task="prosocial:Safety")
    assert agent.class_list == SAFETY_LABELS
    key = "embeddings.word_embeddings.weight"
    trained = open_classifier(binary).encoder.state_dict()[key]
    assert torch.equal(agent.classifier.encoder.state_dict()[key], trained)


def test_a_trained_models_classes_cannot_be_changed(binary):
    with pytest.raises(UserError, match="its classes are __ok__ __notok__, not a b"):
        create_agent_from_model_file(binary, {"classes": ["a", "b"]})


@pytest.mark.parametrize("backbone", ["llama", "gpt2"])
def test_a_causal_adapter_trains_and_loads(train, tiny_backbones, backbone):
    settings = {"backbone": str(tiny_backbones[backbone]), "lora_rank": 2, "max_train_steps": 2}
    model_file, _ = train(backbone, **settings)
    agent = create_agent_from_model_file(model_file, {"datatype": "valid"})
    agent.observe({"text": TEXTS[0], "episode_done": True})
    assert agent.act()["text"] in BINARY_LABELS


def test_history_is_the_context(binary):
    agent = create_agent_from_model_file(binary, {"datatype": "valid", "print_scores": True})
    agent.observe({"text": "I feel tired.", "episode_done": False})
    agent.act()
    agent.observe({"text": "You could rest.", "episode_done": True})
    [expected] = open_classifier(binary).probabilities(["I feel tired."], ["You could rest."])
    assert agent.act()["probs"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_batch_act_agrees_with_act(binary):
    """With the scores of all classes, in the way in which ParlAI's reranker asks for them."""
    agent = create_agent_from_model_file(binary, {"datatype": "valid", "return_cand_scores": True})
    messages = [{"text": text, "episode_done": True} for text in TEXTS]
    observations = []
    for message in messages:
        observation = agent.observe(dict(message) | {"label_candidates": agent.class_list})
        agent.self_observe(observation)
        observations.append(observation)
    together = agent.batch_act(observations)
    for message, reply in zip(messages, together, strict=True):
        agent.observe(dict(message))
        alone = agent.act()
        assert alone["text"] == reply["text"] == reply["text_candidates"][0]
        torch.testing.assert_close(alone["sorted_scores"], reply["sorted_scores"])


def test_empty_batches_are_answered(binary):
    agent = create_agent_from_model_file(binary, {"datatype": "valid"})
    assert "text" not in agent.batch_act([agent.observe({"episode_done": True})])[0]


def test_parlais_offensive_language_classifier_reads_it(binary):
    """By its ``custom_model_file``; what ParlAI's safety scripts and safety_bench call."""
    parlai = OffensiveLanguageClassifier(custom_model_file=binary)
    ours = open_classifier(binary)
    for text in ("I like to walk.", "Hi!\nGo away."):
        context, _, reply = text.rpartition("\n")
        [probabilities] = ours.probabilities([context], [reply]).tolist()
        is_unsafe, probability = parlai.contains_offensive_language(text)
        assert is_unsafe == (probabilities[1] > probabilities[0])
        assert probability == pytest.approx(max(probabilities), abs=1e-3)
    assert parlai.contains_offensive_language("") == (False, 1.0)
    shared = OffensiveLanguageClassifier(shared=parlai.share())
    assert shared.contains_offensive_language("Go away.") == parlai.contains_offensive_language(
        "Go away."
    )


def test_the_preset_trains_on_judge_train_and_validates_on_valid():
    parser = TrainModel.setup_args()
    opt = parser.parse_args(["-o", str(RECIPES / "classifier" / "diasafety.opt")])
    for datatype, part in (("train", "judge-train"), ("valid", "valid"), ("test", "test")):
        [teacher] = create_task_agent_from_taskname(Opt({**opt, "datatype": datatype}))
        rows = diasafety.load_rows(opt["datapath"], datatype, part=part)
        assert teacher.num_examples() == len(rows)


def test_the_thin_package_names_the_same_class():
    from parlai.agents.prosocial.classifier import ClassifierAgent as found

    assert found is ClassifierAgent


def test_bf16_trains_the_same_head_nearly(make):
    """The scores differ by bf16's rounding, and are no multiples of its steps."""
    scores = []
    for precision in ("fp32", "bf16"):
        agent = make(binary=True, precision=precision)
        agent.observe({"text": "Hi!\nGo away.", "episode_done": True})
        batch = agent.batchify([agent.observation])
        agent.is_training = False
        with torch.no_grad():
            scores.append(agent.score(batch))
    assert scores[0].dtype == scores[1].dtype == torch.float32
    torch.testing.assert_close(scores[0], scores[1], atol=0.02, rtol=0)
    assert not torch.equal(scores[1], scores[1].bfloat16().float())
