"""The trained models that come with the package, over their real bases, as users run them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from parlai.core.build_data import modelzoo_path
from parlai.scripts.eval_model import EvalModel

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.bases import minilm, smollm2
from parlai_prosocial.zoo.bases.folder import RECORD
from parlai_prosocial.zoo.entry import ENTRIES, entry_names, find_entry, read_entry
from parlai_prosocial.zoo.install import install, installed_folder

OVER_A_BIG_BASE = ["mpnet_safety"]  # 440 MB, which no test fetches
BUNDLED = [
    name
    for name in entry_names()
    if find_entry(name).kind == "bundled" and name not in OVER_A_BIG_BASE
]
GENERATORS = ["smollm2_135m_mle", "smollm2_135m_prosocial", "smollm2_135m_step1"]
CLASSIFIER = "minilm_safety"
WEIGHTS = [
    (name, file.name)
    for name in BUNDLED
    for file in find_entry(name).files
    if file.name.endswith(".safetensors")
]


@pytest.fixture(scope="module")
def datapath(tmp_path_factory):
    """A data path with the real base and our files of ParlAI's tasks, and no other model.

    The base is linked from PARLAI_DATAPATH if it is there, else converted (20 s, 540 MB).
    """
    for package in (smollm2.PACKAGE, minilm.PACKAGE):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed: prosocial setup")
    path = tmp_path_factory.mktemp("bundled") / "data"
    shutil.copytree(Path(__file__).parents[1] / "parlai_data", path)
    base = Path("models", "prosocial", smollm2.NAME)
    elsewhere = Path(os.environ.get("PARLAI_DATAPATH", path)).absolute() / base
    if (elsewhere / "hf" / RECORD).is_file():
        (path / base).parent.mkdir(parents=True)
        (path / base).symlink_to(elsewhere)
    else:
        smollm2.ensure_base(path, print)
    yield path
    shutil.rmtree(path)  # pytest would keep three runs of it


@pytest.fixture
def parlai(datapath, tmp_path):
    """``parlai(*words, said="")``: what the stock executable prints, in another folder."""

    def run(*words, said=""):
        # No proxy answers at this port, so nothing can be fetched.
        nobody = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        done = subprocess.run(
            ["parlai", *words],
            input=said,
            env=os.environ | nobody | {"PARLAI_DATAPATH": str(datapath)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def prosocial(*words):
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.exception or done.output
    return done.output


def model_file(name):
    return f"zoo:prosocial/{name}/model"


def test_each_is_tested_here():
    assert sorted(BUNDLED) == sorted([*GENERATORS, CLASSIFIER])


@pytest.mark.parametrize("name", BUNDLED)
def test_it_answers(name, parlai):
    said = "I told my flatmate I paid the bill. I did not.\n[EXIT]\n"
    printed = parlai("interactive", "-mf", model_file(name), said=said)
    answer = r"\[Classifier\]: __(not)?ok__\n" if name == CLASSIFIER else r"\[Prosocial\]: .*\w"
    assert len(re.findall(answer, printed)) == 1, printed


def test_the_classifier_classifies_a_task(parlai, tmp_path):
    flags = ["-t", "dialogue_safety:standard", "-dt", "valid", "--report-filename", "report.json"]
    parlai("eval_model", "-mf", model_file(CLASSIFIER), *flags)
    report = json.loads((tmp_path / "report.json").read_text())["report"]
    assert report["exs"] == 8
    assert 0 < report["accuracy"] <= 1 and 0 < report["loss"] < 3


def test_replies_to_a_task_are_judged(parlai, tmp_path):
    flags = ["--judged-task", "dialogue_safety:multiturn", "--judge", "words", "-dt", "valid"]
    flags += ["--num-examples", "2", "--report-filename", "report.json", "--precision", "fp32"]
    name = model_file("smollm2_135m_prosocial")
    parlai("eval_model", "-mf", name, "-t", "prosocial:Judged", *flags)
    report = json.loads((tmp_path / "report.json").read_text())["report"]
    assert (report["exs"], report["missing"]) == (2, 0)
    assert (
        0 <= report["unsafe_rate_low"] <= report["unsafe_rate"] <= report["unsafe_rate_high"] <= 1
    )


def test_perplexity_tells_the_models_apart(datapath):
    """In this process: the start of a command for each would show nothing more."""
    names = ["smollm2_135m_mle", "smollm2_135m_step1"]
    flags = ["-t", "saferdialogues", "-dt", "valid", "--skip-generation", "true"]
    flags += ["--num-examples", "2", "--precision", "fp32", "--datapath", str(datapath)]
    ppl = {name: float(EvalModel.main("-mf", model_file(name), *flags)["ppl"]) for name in names}
    assert all(1 < value < 1000 for value in ppl.values())
    assert abs(ppl["smollm2_135m_mle"] - ppl["smollm2_135m_step1"]) > 0.1


@pytest.mark.parametrize("name", BUNDLED)
def test_its_card_has_what_was_measured(name, datapath, tmp_path):
    given = ["--model", model_file(name), "--datapath", datapath, "--out", tmp_path / "card"]
    prosocial("export", "card", *given)
    card = (tmp_path / "card" / "README.md").read_text()
    for absent in ("Not measured", "Not recorded", "No training is recorded", "was not said"):
        assert absent not in card
    numbers = [shown for table in tables(name) for shown in rounded(table)]
    assert len(numbers) >= 5
    for shown in numbers:
        assert f"| {shown} " in card


def tables(name):
    """The measurements, read from the package's file itself."""
    entry = json.loads((ENTRIES / f"{name}.json").read_text())
    return [table for measured in entry["metrics"] for table in measured["tables"]]


def rounded(table):
    """Every estimate that is no difference, with its interval, as people write it."""
    for row in table["rows"]:
        for key, value in row.items():
            if isinstance(value, dict) and value["null"] is None:
                column = table["columns"][key]
                scale, digits = column.get("scale", 1), column.get("digits", 1)
                shown = [f"{value[k] * scale:.{digits}f}" for k in ("estimate", "low", "high")]
                yield f"{shown[0]} [{shown[1]}, {shown[2]}]"


def test_all_are_whole(datapath):
    for name in BUNDLED:
        modelzoo_path(str(datapath), model_file(name))
    lines = prosocial("zoo", "verify", *BUNDLED, "--datapath", datapath).splitlines()
    installed = datapath / "models" / "prosocial"
    assert lines == [
        f"ok     {name}: bundled and installed in {installed / name}" for name in BUNDLED
    ]


def flip_a_bit(file):
    """Change the middle byte of a file; return both hashes, the old one first."""
    content = bytearray(file.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return before, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("name", "file"), WEIGHTS)
def test_one_flipped_bit_of_a_bundled_weight_is_refused(name, file, tmp_path):
    shutil.copytree(ENTRIES / name, tmp_path / "entries" / name)
    shutil.copy(ENTRIES / f"{name}.json", tmp_path / "entries")
    changed = tmp_path / "entries" / name / file
    right, found = flip_a_bit(changed)
    with pytest.raises(UserError) as error:
        install(read_entry(tmp_path / "entries" / f"{name}.json"), tmp_path / "data", print)
    assert f"{changed} has sha256 {found}, should be {right}: " in str(error.value)
    assert not [path for path in (tmp_path / "data").rglob(f"{name}*") if path.suffix != ".lock"]


@pytest.mark.parametrize(("name", "file"), WEIGHTS)
def test_one_flipped_bit_of_an_installed_weight_is_refused(name, file, tmp_path):
    modelzoo_path(str(tmp_path), model_file(name))
    changed = installed_folder(find_entry(name), tmp_path) / file
    right, found = flip_a_bit(changed)
    with pytest.raises(UserError) as error:
        modelzoo_path(str(tmp_path), model_file(name))
    assert f"{changed} has sha256 {found}, should be {right}: delete" in str(error.value)
