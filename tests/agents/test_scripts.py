"""ParlAI's own scripts run with a model of ours."""

import json
import re
import shutil
import subprocess

import pytest
from parlai.agents.repeat_query.repeat_query import RepeatQueryAgent
from parlai.core.loader import AGENT_REGISTRY
from parlai.core.script import superscript_main

TOD = "parlai.core.tod.tod_agents:"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = [
        {"context": f"I took {i}.", "response": f"Give {i} back.", "negatives": [f"Take {i} more."]}
        for i in range(5)
    ]
    file = tmp_path_factory.mktemp("data") / "own.jsonl"
    splits = ("train", "valid", "test")
    lines = [json.dumps(row | {"split": split}) for split in splits for row in rows]
    file.write_text("\n".join(lines))
    return ["-t", "prosocial:Own", "--prosocial-data", str(file)]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory, tiny_backbones):
    path = str(tmp_path_factory.mktemp("trained") / "model")
    flags = ["--backbone", str(tiny_backbones["llama"]), "--lora-rank", "2", "--precision", "fp32"]
    flags += ["--max-train-steps", "2", "--batchsize", "2", "--label-truncate", "8"]
    superscript_main(["train_model", "-m", "prosocial", *flags, *data, "-mf", path])
    return path


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("display_model", ["-n", "2", "-dt", "test"]),
        ("eval_wordstat", ["-dt", "test"]),
        ("profile_train", ["--max-train-steps", "2", "-bs", "2"]),
        ("token_stats", ["-dt", "test", "-n", "2"]),
        ("self_chat", ["--num-self-chats", "1", "--selfchat-max-turns", "2"]),
    ],
)
def test_runs(script, flags, trained, data, tmp_path):
    path = shutil.copytree(trained.rpartition("/")[0], tmp_path / "copy") / "model"
    task = [] if script == "self_chat" else data
    superscript_main([script, "-mf", str(path), *task, *flags])


class SilentApi(RepeatQueryAgent):
    def self_observe(self, message):
        pass


def test_the_world_of_task_oriented_dialogue(trained, monkeypatch):
    monkeypatch.setitem(AGENT_REGISTRY, "silent_api", SilentApi)
    flags = ["--api-schema-grounding-model", TOD + "EmptyApiSchemaAgent"]
    flags += ["--goal-grounding-model", TOD + "EmptyGoalAgent", "--user-model-file", trained]
    flags += ["--system-model-file", trained, "--api-resp-model", "silent_api"]
    superscript_main(["tod_world_script", *flags, "--num-episodes", "1", "--max-turns", "2"])


def test_vacuum_leaves_the_training_state_out_and_the_model_as_it_is(trained, data, tmp_path):
    path = str(shutil.copytree(trained.rpartition("/")[0], tmp_path / "copy") / "model")
    test = ["-mf", path, *data, "-dt", "test", "--skip-generation", "true"]
    before = superscript_main(["eval_model", *test])
    [state] = (tmp_path / "copy").glob("*/training.pt")
    superscript_main(["vacuum", "-mf", path])
    assert not state.exists()
    assert (tmp_path / "copy" / "model.training.unvacuumed").exists()
    assert superscript_main(["eval_model", *test])["loss"].value() == before["loss"].value()
    superscript_main(["vacuum", "-mf", path])  # there is nothing left


def test_two_processes_evaluate_each_example_once(trained, data, tmp_path):
    reports = []
    for script, flags in (
        ("eval_model", []),
        ("multiprocessing_eval", ["--distributed-world-size", "2"]),
    ):
        file = tmp_path / f"{script}.json"
        command = ["parlai", script, "-mf", trained, *data, "-dt", "test", *flags]
        command += ["--skip-generation", "true", "--report-filename", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, re.sub(r"\s+", " ", done.stderr[-600:])
        reports.append(json.loads(file.read_text())["report"])
    one, two = reports
    assert one["exs"] == two["exs"] == 5
    for name in ("loss", "ppl", "contrast_loss", "contrast_acc", "logp_neg"):
        assert one[name] == pytest.approx(two[name], rel=1e-5), name
