"""A tiny finished run, to be added to a zoo as `prosocial zoo add` is typed."""

import json
import shutil

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.training.recipe import train
from parlai_prosocial.zoo import sealed
from parlai_prosocial.zoo.bases import smollm2
from parlai_prosocial.zoo.bases.folder import RECORD

BASE = "zoo:prosocial/smollm2_135m"
TINY = {
    "model": "prosocial",
    "task": "prosocial:Contrastive",
    "prosocial_sample": True,
    "lora_rank": 2,
    "contrast_score": "likelihood+cosine",
    "precision": "fp32",
    "lr_scheduler": "none",
    "learningrate": 0.02,
    "batchsize": 2,
    "max_train_steps": 2,
    "text_truncate": 64,
    "label_truncate": 12,
    "skip_generation": True,
    "validation_max_exs": 2,
    "log_every_n_steps": 1,
}


def run(*arguments, **kwargs):
    return CliRunner().invoke(cli, ["zoo", *map(str, arguments)], **kwargs)


@pytest.fixture(scope="session")
def datapath(tiny_backbones, tmp_path_factory):
    """A data path in which a tiny model stands in for the base."""
    path = tmp_path_factory.mktemp("datapath")
    hf = path / "models" / "prosocial" / "smollm2_135m" / "hf"
    shutil.copytree(tiny_backbones["llama"], hf)
    (hf / RECORD).write_text(json.dumps({"sha256": smollm2.GGUF_SHA256}))
    return path


@pytest.fixture(scope="session")
def finished(datapath, tmp_path_factory):
    """The model file of step 2 of a recipe that ran."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "parlai_prosocial" / "recipes" / "tiny"
    recipe.mkdir(parents=True)
    for step in ("step1", "step2"):
        (recipe / f"{step}.opt").write_text(json.dumps(TINY))
    settings = [f"datapath={datapath}", "seed=3"]
    return train(recipe, out=folder / "out", base=BASE, settings=settings).model_file


@pytest.fixture
def results(tmp_path):
    columns = {"row": {"label": "row"}, "unsafe": {"label": "unsafe, %", "scale": 100}}
    rows = [
        {"row": "MLE", "unsafe": Interval(0.2, 0.1, 0.3)},
        {"row": "n-pair", "unsafe": Interval(0.125, 0.1, 0.15)},
    ]
    tables = [make_table("Both axes", columns, rows), make_table("Other", columns, rows[:1])]
    file = tmp_path / "results.json"
    environment = {"device": "x86_64", "command": "prosocial ablate --judge classifier:/home/me/m"}
    file.write_text(json.dumps({"environment": environment, "tables": tables}))
    return file


@pytest.fixture
def add(finished, results, datapath):
    def add(name="tiny", model=None, row="n-pair", out=None, command=()):
        given = ["--model", model or finished, "--what", "a tiny one", "--results", results, row]
        given += ["--out", out, "--datapath", datapath]
        return run("add", name, *given, *(w for c in command for w in ("--command", c)))

    return add


@pytest.fixture
def of_the_package(monkeypatch):
    """``of_the_package(entry)``: what is installed of it is held against it, as of any entry."""

    def known(entry):
        monkeypatch.setattr(sealed, "entry_names", lambda: [entry.name])
        monkeypatch.setattr(sealed, "find_entry", lambda name: entry)

    return known
