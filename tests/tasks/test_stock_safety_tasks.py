"""ParlAI's own safety tasks under the stock ``parlai eval_model``, their own loaders offline."""

import json
import subprocess

import pytest
from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.scripts.eval_model import EvalModel

from parlai_prosocial.data.example import BINARY_LABELS, SAFETY_LABELS

TOPICS = ["none", "politics", "religion", "medical", "nsfw", "drugs"]

BINARY = {
    "bot_adversarial_dialogue": 8,
    "bot_adversarial_dialogue:BotAdversarialDialogue": 8,
    "bot_adversarial_dialogue:HumanNonadvSafetyEvaluation": 3,
    "dialogue_safety:standard": 8,
    "dialogue_safety:adversarial": 8,
    "dialogue_safety:multiturn": 4,
    "safety_mix": 4,
    "safety_mix:SafetyMix": 4,
    "safety_mix:PosSafetyMix": 2,
    "safety_mix:NegSafetyMix": 2,
    "prosocial_dialog:ProsocialDialogBinarySafety": 6,
}
"""Tasks of ``__ok__`` and ``__notok__``, and how many examples ``-dt valid`` has in our files."""

REPLIES = {
    "bot_adversarial_dialogue:HumanSafetyEvaluation": 4,
    "saferdialogues": 2,
    "saferdialogues:SaferDialogues": 2,
    "saferdialogues:SaferDialoguesBAD": 2,
    "prosocial_dialog": 6,
    "prosocial_dialog:ProsocialDialog": 6,
}
"""Tasks whose labels are replies."""


@pytest.fixture(scope="module")
def classifier(tiny_encoder, tmp_path_factory):
    """``classifier(labels)``: the file of an untrained classifier with these labels."""
    folder = tmp_path_factory.mktemp("classifiers")

    def make(labels):
        model_file = folder / str(len(labels))
        if not model_file.exists():
            opt = ParlaiParser(True, True).parse_kwargs(
                model="prosocial/classifier", backbone=str(tiny_encoder), classes=labels
            )
            create_agent(opt).save(str(model_file))
        return model_file

    return make


@pytest.fixture(scope="module")
def evaluate(parlai_data):
    def run(task, model_file, *flags):
        report = EvalModel.main(
            *["--task", task, "--model-file", str(model_file), "--datapath", str(parlai_data)],
            *["--datatype", "valid", "--batchsize", "2", "--loglevel", "warn", *flags],
        )
        return {name: float(value) for name, value in report.items()}

    return run


@pytest.fixture
def parlai(parlai_data, tmp_path):
    """``parlai(*flags)``: the report of the stock executable, in another working directory."""

    def run(*flags):
        command = ["parlai", "eval_model", *map(str, flags), "--datapath", str(parlai_data)]
        command += ["--datatype", "valid", "--batchsize", "4", "--report-filename", "report.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((tmp_path / "report.json").read_text())["report"]

    return run


@pytest.mark.parametrize(("task", "examples"), BINARY.items())
def test_binary_tasks(task, examples, classifier, evaluate):
    report = evaluate(task, classifier(BINARY_LABELS))
    assert report["exs"] == examples
    assert {f"class_{label}_recall" for label in BINARY_LABELS} <= report.keys()
    assert 0 <= report["accuracy"] <= 1 and report["loss"] > 0


@pytest.mark.parametrize(
    ("task", "labels", "examples"),
    [
        ("sensitive_topics_evaluation", TOPICS, 6),
        ("prosocial_dialog:ProsocialDialogSafety", SAFETY_LABELS, 6),
    ],
)
def test_tasks_of_more_classes(task, labels, examples, classifier, evaluate):
    report = evaluate(task, classifier(labels))
    assert report["exs"] == examples and report["loss"] > 0


@pytest.mark.parametrize(("task", "examples"), REPLIES.items())
def test_tasks_of_replies(task, examples, generator, evaluate):
    report = evaluate(task, generator, "--skip-generation", "true")
    assert report["exs"] == examples
    assert 1 < report["ppl"] < 1e4


def test_flags_of_the_tasks(classifier, evaluate):
    model_file = classifier(BINARY_LABELS)
    bot = evaluate("bot_adversarial_dialogue", model_file, "--bad-speaker-to-eval", "bot")
    unsafe = evaluate("bot_adversarial_dialogue", model_file, "--bad-safety-mix", "unsafe")
    assert bot["exs"] == unsafe["exs"] == 4
    assert evaluate("dialogue_safety:standard", model_file, "--round", "3")["exs"] == 24
    assert evaluate("safety_mix", model_file, "--mix-user-type", "troll")["exs"] == 4


def test_the_stock_command_classifies(classifier, parlai):
    report = parlai("-t", ",".join(BINARY), "-mf", classifier(BINARY_LABELS))
    assert report["exs"] == sum(BINARY.values())
    for task, examples in BINARY.items():
        assert report[f"{task}/exs"] == examples


def test_the_stock_command_judges_replies(classifier, generator, parlai):
    """Over all tasks, those of classes included; each context gets a reply and a judgement."""
    counts = BINARY | REPLIES | {"sensitive_topics_evaluation": 6}
    names = {f"prosocial:Judged:judged_task={t.replace(':', ';')}": n for t, n in counts.items()}
    judge = f"classifier:{classifier(BINARY_LABELS)}"
    report = parlai("-t", ",".join(names), "-mf", generator, "--judge", judge)
    assert report["exs"] == sum(counts.values())
    for name, examples in names.items():
        assert report[f"{name}/exs"] == examples
        assert 0 <= report[f"{name}/unsafe_rate"] <= 1
        assert report[f"{name}/missing"] == 0
    assert report["unsafe_rate_low"] <= report["unsafe_rate"] <= report["unsafe_rate_high"]


def test_the_stock_command_takes_flags_of_the_judged_task(classifier, generator, parlai):
    report = parlai(
        *["-t", "prosocial:Judged", "--judged-task", "bot_adversarial_dialogue"],
        *["--bad-speaker-to-eval", "human", "--judge", f"classifier:{classifier(BINARY_LABELS)}"],
        *["-mf", generator],
    )
    assert report["exs"] == 4 and "unsafe_rate" in report
