"""The stock ``parlai`` executable, from another working directory."""

import json
import os
import subprocess

import pytest


@pytest.fixture(scope="module")
def parlai(tmp_path_factory, datapath):
    """``parlai(*arguments, stdin=..., check=...)`` in a folder of its own; ``parlai.folder``."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments, stdin="", status=0):
        done = subprocess.run(
            ["parlai", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=180,
        )
        assert done.returncode == status, done.stderr[-2000:]
        return done

    run.folder = folder
    return run


SAMPLE = ["-t", "mic:Contrastive,prosocial:Contrastive", "--prosocial-sample", "true"]
TINY = ["--text-truncate", "128", "--label-truncate", "16", "--batchsize", "2"]


@pytest.fixture(scope="module")
def trained(parlai, tiny_backbones):
    parlai(
        *["train_model", "-m", "prosocial", *SAMPLE, "-mf", "runs/first/model", *TINY],
        *["--backbone", tiny_backbones["llama"], "--lora-rank", "2", "--max-train-steps", "3"],
        *["--validation-max-exs", "2", "--skip-generation", "true"],
    )
    return "runs/first/model"


def test_train_writes_a_checkpoint(parlai, trained):
    manifest = json.loads((parlai.folder / trained).read_text())
    folder = parlai.folder / "runs" / "first" / manifest["weights"]
    assert (folder / "adapter_model.safetensors").exists()


def test_eval_model(parlai, trained):
    done = parlai(
        *["eval_model", "-mf", trained, *SAMPLE, "-dt", "valid", "--num-examples", "4"],
        *["--skip-generation", "false", "--report-filename", "report"],
    )
    assert "contrast_acc" in done.stdout
    report = json.loads((parlai.folder / "report").read_text())["report"]
    assert report["exs"] >= 4
    assert "f1" in report


def test_interactive_answers_piped_text(parlai, trained):
    done = parlai(
        *["interactive", "-mf", trained, "--skip-generation", "false"],
        stdin="Hi!\nHow are you?\n[DONE]\n[EXIT]\n",
    )
    assert done.stdout.count("[Prosocial]") >= 2 or done.stdout.count("Prosocial") >= 2


def test_self_chat(parlai, trained):
    arguments = ["-mf", trained, "--skip-generation", "false", "--num-self-chats", "1"]
    parlai("self_chat", *arguments, "--selfchat-max-turns", "2", "--outfile", "chat")
    assert (parlai.folder / "chat.jsonl").exists()


def test_display_model(parlai, trained):
    arguments = ["-mf", trained, *SAMPLE, "--skip-generation", "false", "--num-examples", "2"]
    done = parlai("display_model", *arguments, "-dt", "valid", "--inference", "nucleus")
    assert "model:" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "0"], "--temperature 0.0: must be above 0"),
        (["--backbone", "./no/such/folder"], "--backbone ./no/such/folder: no such folder"),
    ],
)
def test_mistakes_are_one_line(parlai, flags, message):
    done = parlai("train_model", "-m", "prosocial", *SAMPLE, "-mf", "bad/model", *flags, status=1)
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line


def test_two_processes_train_on_a_cpu(parlai, tiny_backbones):
    parlai(
        *["multiprocessing_train", "-m", "prosocial", *SAMPLE, "-mf", "two/model", *TINY],
        *["--backbone", tiny_backbones["llama"], "--lora-rank", "0", "--max-train-steps", "2"],
        *["--validation-max-exs", "2", "--skip-generation", "true"],
        *["--distributed-world-size", "2"],
    )
    manifest = json.loads((parlai.folder / "two" / "model").read_text())
    assert (parlai.folder / "two" / manifest["weights"] / "model.safetensors").exists()
