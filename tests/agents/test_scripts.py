"""ParlAI's own scripts run with a model of ours."""

import itertools
import json
import re
import shutil
import subprocess
from io import StringIO

import pytest
import torch
from parlai.agents.repeat_query.repeat_query import RepeatQueryAgent
from parlai.core.loader import AGENT_REGISTRY
from parlai.core.script import superscript_main

from parlai_prosocial.errors import UserError

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


def check_written(flags, folder):
    """Each file that the flags of a script name has something in it."""
    for flag, name in itertools.pairwise(flags):
        if flag in ("--outfile", "--world-logs", "--dict-file"):
            files = [file for file in folder.glob(f"{name}*") if file.stat().st_size]
            assert files, f"{flag} {name}"


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


@pytest.fixture(scope="module")
def trained_by(data, trained, tmp_path_factory, tiny_backbones):
    """``trained_by[model]``: its file, and a task that it is for."""
    root = tmp_path_factory.mktemp("others")
    own = ["--max-train-steps", "2", "--batchsize", "2", "--validation-max-exs", "2"]
    transformer, classifier = str(root / "t" / "model"), str(root / "c" / "model")
    sizes = ["--embedding-size", "16", "--n-heads", "2", "--n-layers", "1", "--ffn-size", "16"]
    flags = ["-m", "prosocial/transformer", "--label-truncate", "8", *sizes, *data, *own]
    torch.manual_seed(0)  # by bad luck it says no word at all, by which eval_wordstat divides
    superscript_main(["train_model", *flags, "-mf", transformer])
    labels = ["-t", "diasafety:Safety"]
    flags = ["-m", "prosocial/classifier", "--backbone", str(tiny_backbones["gpt2"]), *labels, *own]
    superscript_main(["train_model", *flags, "-mf", classifier])
    return {
        "prosocial": (trained, data),
        "prosocial/transformer": (transformer, data),
        "prosocial/classifier": (classifier, labels),
    }


@pytest.mark.parametrize("model", ["prosocial", "prosocial/transformer", "prosocial/classifier"])
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("eval_model", ["-dt", "test", "-ne", "2", "--world-logs", "log", "-bs", "2"]),
        ("eval_model", ["-dt", "valid", "-ne", "2", "--metrics", "all", "--aggregate-micro", "1"]),
        ("display_model", ["-n", "2", "-dt", "test", "--verbose"]),
        ("eval_wordstat", ["-dt", "test", "-ne", "2", "--compute-unique", "true"]),
        ("token_stats", ["-dt", "test", "-n", "2"]),
        ("build_dict", []),
        ("self_chat", ["--num-self-chats", "1", "--selfchat-max-turns", "2", "--outfile", "chat"]),
        ("interactive", ["--outfile", "talk"]),
        ("safe_interactive", ["--safety", "none"]),
        ("profile_interactive", []),
        ("vacuum", []),
    ],
)
def test_runs_with_every_agent(script, flags, model, trained_by, tmp_path, monkeypatch):
    file, task = trained_by[model]
    path = shutil.copytree(file.rpartition("/")[0], tmp_path / "copy") / "model"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO(f"{'I took it. ' * 9}\n[DONE]\nHi!\n[EXIT]\n"))
    no_task = ("vacuum", "self_chat", "safe_interactive", "profile_interactive")
    task = [] if script in no_task else task
    superscript_main([script, "-mf", str(path), *task, *flags])


@pytest.mark.parametrize("task", ["prosocial:Own", "diasafety", "mic:Contrastive", "self_dialogue"])
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("display_data", ["-n", "2", "--verbose"]),
        ("data_stats", ["-n", "2"]),
        ("verify_data", []),
        ("convert_to_parlai", ["-n", "2", "--outfile", "rows"]),
        ("build_dict", ["--dict-file", "words", "--dict-maxexs", "2"]),
        ("build_candidates", ["-n", "2", "--outfile", "candidates"]),
        ("convert_to_json", ["-ne", "2", "--world-logs", "json"]),
        ("eval_model", ["-m", "repeat_query", "-ne", "2"]),
    ],
)
def test_reads_our_tasks(script, flags, task, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_task = {"prosocial:Own": data[2:], "mic:Contrastive": ["--prosocial-sample", "true"]}
    superscript_main([script, "-t", task, "-dt", "valid", *of_task.get(task, []), *flags])
    check_written(flags, tmp_path)


@pytest.mark.parametrize("task", ["prosocial:Own", "diasafety:Safety", "mic", "self_dialogue"])
def test_people_and_models_talk_under_our_tasks(task, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO("Hi!\n[DONE]\nHi again!\n[EXIT]\n"))
    flags = ["-mf", trained, "-t", task]
    superscript_main(["interactive", *flags])
    assert capsys.readouterr().out.count("[Prosocial]: ") == 2
    flags += ["--num-self-chats", "1", "--selfchat-max-turns", "2", "--outfile", "chat"]
    superscript_main(["self_chat", *flags])
    [dialogue] = (tmp_path / "chat.jsonl").read_text().splitlines()
    assert dialogue.count('"Prosocial_') >= 2


@pytest.mark.parametrize("model", ["prosocial", "prosocial/classifier"])
def test_torchscript_is_refused(model, trained_by, tmp_path):
    with pytest.raises(UserError, match="prosocial export"):
        superscript_main(["torchscript", "-mf", trained_by[model][0], "-smf", str(tmp_path / "s")])


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
