"""A pickle that would create a file, given as every file to every command: it never runs."""

import contextlib
import io
import json
import pickle
import re
import shutil

import pytest
import torch
from click.testing import CliRunner
from parlai.core.script import superscript_main

from parlai_prosocial.cli.main import cli
from parlai_prosocial.compat import pickles

OURS = [
    "data check X",
    "data convert X --to own --out out/x.jsonl",
    "mine --model X --task self_dialogue --casual --synthetic-cap 0 --limit 1 --out out/x.jsonl",
    "mine --model {gpt2} --task diasafety --judge classifier:X --limit 1 --out out/x.jsonl",
    "mine --model {gpt2} --task diasafety --judge hf:X --limit 1 --out out/x.jsonl",
    "mine --model {gpt2} --task diasafety --judge parlai:X --limit 1 --out out/x.jsonl",
    "mine --model {gpt2} --task diasafety --judge llama-guard:X --limit 1 --out out/x.jsonl",
    "mine --model {gpt2} --task prosocial:Own --set prosocial-data=X --casual --out out/x.jsonl",
    "annotate --rot-model X --task self_dialogue --limit 1 --out out/x.jsonl",
    "train --recipe . --base {gpt2} --out out",
    "train --recipe demo --base X --out out",
    "train --recipe demo --base {gpt2} --set init-model=X --out out",
    "improve --model X --task diasafety --judge classifier:X --out out",
    "compare --recipe . --out out",
    "compare --recipe demo --base X --out out",
    "ablate --recipe . --out out",
    "ablate --recipe diasafety --mined X --base {gpt2} --judge classifier:X --out out",
    "calibrate -mf X",
    "zoo add own --model X --what w --results X r --out out",
    "export card --model X --out out",
    "export hf --model X --out out",
    "export hf --model {gpt2} --results X --row r --out out",
    "export parlai --model X --out out",
    "evaluate --suite casual --model X --limit 1 --out out",
    "evaluate --suite X --model {gpt2} --limit 1 --out out",
    "evaluate --suite casual --model {gpt2} --judge unsafe=classifier:X --limit 1 --out out",
    "evaluate --suite casual --model {gpt2} --labels X --limit 1 --max-tokens 2 --out out",
    "evaluate --suite mic --model {gpt2} --mic-data X --limit 1 --out out",
    "evaluate --suite casual_out --model {gpt2} --persona-chat X --limit 1 --out out",
    "audit --model X --limit 1 --out out",
    "report --run . --out out/x.html",
    "labels export --axis unsafe --n 1 --log X --out out/x.jsonl",
    "labels export --axis unsafe --n 1 --replies X --out out/x.jsonl",
    "labels join X --out out/x.jsonl",
    "labels merge X X --out out/x.jsonl",
    "safety-bench --model X --out out",
]
"""Commands of ours with an X for each file that they read; `chat` opens models as `export` does."""


TINY = ["--embedding-size", "8", "--ffn-size", "8", "--n-heads", "1", "--n-layers", "1"]


class CreatesFile:
    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def torch_zip(file, harm):
    torch.save({"model": {}, "optimizer": harm}, file)


def torch_legacy(file, harm):
    torch.save({"model": {}, "x": harm}, file, _use_new_zipfile_serialization=False)


def bare(file, harm):
    file.write_bytes(pickle.dumps(harm))


@pytest.fixture(params=[bare, torch_zip], ids=lambda write: write.__name__)
def place(request, tmp_path, tiny_backbones, monkeypatch):
    """A folder of pickles under every name that something of ours or ParlAI's reads.

    ``folder/`` is a Hugging Face model but for its pickled weights and adapter; ``run/`` is a
    checkpoint whose training state is a pickle; ``parlai/`` has right options and dictionary.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "_trusted", False)
    harm = CreatesFile(tmp_path / "ran")
    endings = ("", ".opt", ".dict", ".trainstats", ".checkpoint", ".checkpoint.opt", ".journal")
    for name in [f"model{ending}" for ending in endings] + [
        *(f"data.{kind}" for kind in ("jsonl", "json", "csv", "parquet", "jsonl.gz", "gguf")),
        *("step1.opt", "step2.opt", "arms.json", "compare.json", "summary.json", "log.jsonl"),
    ]:
        request.param(tmp_path / name, harm)
    folder = shutil.copytree(tiny_backbones["gpt2"], tmp_path / "folder")
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "adapter_model.bin", "training.pt", "training_args.bin"):
        request.param(folder / name, harm)
    (tmp_path / "run").mkdir()
    weights = shutil.copytree(tiny_backbones["gpt2"], tmp_path / "run" / "model.hf-000001")
    request.param(weights / "training.pt", harm)
    manifest = {"format": "prosocial-checkpoint-1", "weights": weights.name, "number": 1}
    (tmp_path / "run" / "model").write_text(json.dumps(manifest))
    request.param(tmp_path / "run" / "model.opt", harm)
    (tmp_path / "parlai").mkdir()
    request.param(tmp_path / "parlai" / "model", harm)
    opt = {"model": "transformer/generator", "dict_file": str(tmp_path / "parlai" / "model.dict")}
    sizes = {"embedding_size": 8, "ffn_size": 8, "n_heads": 1, "n_layers": 1, "beam_size": 1}
    (tmp_path / "parlai" / "model.opt").write_text(json.dumps(opt | sizes))
    words = ("__null__", "__start__", "__end__", "__unk__", "hi")
    (tmp_path / "parlai" / "model.dict").write_text("".join(f"{word}\t1\n" for word in words))
    yield tmp_path
    assert not (tmp_path / "ran").exists()


HARMFUL = ("model", "folder", "run/model", "data.jsonl", "data.parquet", "data.gguf")


@pytest.mark.parametrize("place", [bare], indirect=True, ids=["bare"])
@pytest.mark.parametrize("command", OURS)
def test_no_command_of_ours_runs_it(place, command, tiny_backbones):
    given = [word.format(**tiny_backbones) for word in command.split()]
    for harmful in HARMFUL if "X" in command else ["-"]:
        words = [re.sub(r"\bX\b", str(place / harmful), word) for word in given]
        done = CliRunner().invoke(cli, words, input="y\n" * 5)
        assert not (place / "ran").exists(), words
        misunderstood = re.search("No such (option|command)|Missing (option|arg)", done.output)
        assert not misunderstood, done.output


PARLAI = [
    ["eval_model", "-t", "self_dialogue"],
    ["interactive"],
    ["self_chat", "-t", "self_dialogue"],
    ["display_model", "-t", "self_dialogue"],
    ["vacuum"],
    ["train_model", "-t", "self_dialogue", "-m", "prosocial", "--max-train-steps", "1"],
    ["train_model", "-t", "self_dialogue", "-m", "transformer/generator", *TINY],
    ["train_model", "-t", "self_dialogue", "-m", "prosocial/transformer", *TINY],
    ["train_model", "-t", "diasafety:Safety", "-m", "prosocial/classifier"],
    ["safe_interactive", "-m", "prosocial"],
]
FILES = [
    ["-mf", "model"],
    ["-mf", "run/model"],
    ["-mf", "parlai/model"],
    ["-o", "step1.opt"],
    ["-mf", "new/model", "--init-model", "model"],
    ["-mf", "new/model", "--init-model", "run/model"],
    ["-mf", "new/model", "--init-model", "parlai/model"],
    ["-mf", "new/model", "--backbone", "folder"],
]


def run_parlai(*words):
    with (
        contextlib.suppress(Exception, SystemExit),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        superscript_main([*words, "--datapath", "data"])


@pytest.mark.parametrize("command", PARLAI, ids=lambda words: " ".join(words[:5]))
def test_no_command_of_parlai_runs_it(place, command, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for given in FILES:
        run_parlai(*command, *given)
        assert not (place / "ran").exists(), given


def test_the_same_weights_run_where_they_are_trusted(place):
    """So that the tests above do reach what would run them."""
    run_parlai("eval_model", "-t", "self_dialogue", "-mf", "parlai/model", "--trust-pickle")
    ran = place / "ran"
    assert ran.exists()
    ran.unlink()
