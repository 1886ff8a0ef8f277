"""A model's own code never runs, and a folder that cannot be loaded is one line."""

import ast
import json
import shutil
from pathlib import Path

import pytest

import parlai_prosocial
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.classifiers import TextClassifierJudge
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.classifier import SafetyClassifier

PACKAGE = Path(parlai_prosocial.__file__).parent
ROOMS = [PACKAGE, *(PACKAGE.parent / name for name in ("agents", "startup", "tasks", "zoo"))]
WITHOUT_CODE_OF_OTHERS = {"Prosocial", "PeftModel"}
"""Ours, and peft's for adapters, which looks for no code."""


@pytest.fixture
def with_code(tiny_backbones, tmp_path, monkeypatch):
    """A folder whose configuration, model and tokenizer are code that would create a file."""
    ran = tmp_path / "ran"
    folder = shutil.copytree(tiny_backbones["llama"], tmp_path / "model")
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class C(LlamaConfig): model_type = 'own'\n"
        "class M(LlamaForCausalLM): pass\n"
        "class T(PreTrainedTokenizerFast): pass\n"
    )
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    names = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    config["auto_map"] = {"AutoConfig": "own.C"} | dict.fromkeys(names, "own.M")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": [None, "own.T"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    yield folder
    assert not ran.exists()


@pytest.mark.parametrize(
    "load",
    [
        Backbone,
        lambda folder: SafetyClassifier(folder, ["a", "b"]),
        lambda folder: TextClassifierJudge(folder, None, False),
    ],
    ids=["generator", "classifier", "judge"],
)
def test_a_models_own_code_never_runs(with_code, load):
    with pytest.raises(UserError, match=r"brings code of its own .*, which is never run") as caught:
        load(with_code)
    assert "\n" not in str(caught.value)


def test_every_from_pretrained_forbids_code():
    open_ones = []
    for file in (f for room in ROOMS for f in room.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("from_pretrained", "from_config", "pipeline"):
                continue
            owner = getattr(node.func.value, "id", "")
            forbids = any(
                k.arg == "trust_remote_code" and getattr(k.value, "value", None) is False
                for k in node.keywords
            )
            if not forbids and owner not in WITHOUT_CODE_OF_OTHERS:
                open_ones.append(f"{file}:{node.lineno}")
    assert not open_ones


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": 1}'),
        ("config.json", b'{"model_type": "llama", "hidden_size": "x"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x00" * 100),
    ],
)
def test_a_torn_folder_is_one_line(tiny_backbones, tmp_path, name, content):
    folder = shutil.copytree(tiny_backbones["llama"], tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="model") as caught:
        Backbone(folder)
    assert "\n" not in str(caught.value)
