import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from parlai.core import build_data
from parlai.core.build_data import modelzoo_path
from parlai.zoo.prosocial import build as zoo_build

from parlai_prosocial.compat import patches
from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.bases import smollm2

BASES = {"smollm2_135m": "_convert", "smollm2_135m_hub": "_fetch_from_hub"}


@pytest.mark.parametrize("name", BASES)
def test_parlai_resolves_the_model_file(name, tmp_path, monkeypatch):
    def make(hf, scratch, say):
        (hf / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smollm2, BASES[name], make)
    model_file = modelzoo_path(str(tmp_path), f"zoo:prosocial/{name}/model")
    assert model_file == f"{tmp_path}/models/prosocial/{name}/model"
    assert json.loads(Path(model_file).read_text())["weights"] == "hf"
    opt = json.loads(Path(f"{model_file}.opt").read_text())
    assert opt["backbone"] == f"zoo:prosocial/{name}"


@pytest.mark.parametrize("name", BASES)
def test_download_returns_the_hugging_face_folder(name, tmp_path, monkeypatch):
    def make(hf, scratch, say):
        (hf / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smollm2, BASES[name], make)
    module = pytest.importorskip(f"parlai.zoo.prosocial.{name}")
    assert module.download(str(tmp_path)) == tmp_path / "models" / "prosocial" / name / "hf"


def raising(error):
    def make(hf, scratch, say):
        raise error

    return make


def test_a_missing_library_is_not_taken_for_a_missing_model(tmp_path, monkeypatch):
    error = ModuleNotFoundError("No module named 'gguf'", name="gguf")
    monkeypatch.setattr(smollm2, "_convert", raising(error))
    with pytest.raises(UserError, match=r"No module named 'gguf'.*prosocial setup"):
        modelzoo_path(str(tmp_path), "zoo:prosocial/smollm2_135m/model")


def test_an_attribute_error_comes_out(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_convert", raising(AttributeError("no attribute 'x'")))
    with pytest.raises(RuntimeError, match="no attribute 'x'"):
        modelzoo_path(str(tmp_path), "zoo:prosocial/smollm2_135m/model")


@pytest.mark.parametrize("path", ["zoo:prosocial/nothing/model", "zoo:prosocial/nothing"])
def test_an_unknown_path_names_the_models_there_are(path, tmp_path):
    with pytest.raises(UserError, match="zoo:prosocial/smollm2_135m"):
        modelzoo_path(str(tmp_path), path)


@pytest.mark.parametrize("ending", ["", "/model"])
def test_a_name_has_two_forms_once_something_of_ours_is_loaded(ending, tmp_path, monkeypatch):
    patches.apply()
    monkeypatch.setattr(zoo_build, "install_entry", lambda entry, *where: entry.name)
    found = build_data.modelzoo_path(str(tmp_path), f"zoo:prosocial/smollm2_135m_mle{ending}")
    assert found == str(tmp_path / "models/prosocial/smollm2_135m_mle/model")


def test_parlai_takes_a_name_without_its_ending(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "parlai", "display_model", "-mf", "zoo:prosocial/minilm_safety"],
        env={**os.environ, "PARLAI_DATAPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    # The name was no fault: what is missing is the task.
    assert "No task specified" in done.stderr.splitlines()[-1]


def test_without_a_data_path_the_mend_is_named():
    with pytest.raises(UserError, match=r"smollm2_135m_mle/model: .*`model: prosocial` below"):
        modelzoo_path(None, "zoo:prosocial/smollm2_135m_mle/model")


def test_the_stock_command_shows_one_line(tmp_path):
    """The model file is resolved before any agent or task of ours is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "parlai", "display_model", "-mf", "zoo:prosocial/nothing/model"],
        env={**os.environ, "PARLAI_DATAPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "error: zoo:prosocial/nothing: no such model in the zoo" in done.stderr
    assert "Traceback" not in done.stderr
