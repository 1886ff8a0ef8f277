"""The stock ``parlai`` executable, from another working directory."""

import json
import os
import subprocess

import pytest
import torch
from parlai.core.params import ParlaiParser
from safetensors.torch import load_file

from parlai_prosocial.errors import UserError


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
        (["--backbone", "./no/such/folder"], "--backbone ./no/such/folder: no such model"),
    ],
)
def test_mistakes_are_one_line(parlai, flags, message):
    done = parlai("train_model", "-m", "prosocial", *SAMPLE, "-mf", "bad/model", *flags, status=2)
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line


JOINT_TASK = """
from parlai.core.teachers import DialogTeacher
from parlai.utils.distributed import get_rank, num_workers

ROWS = [
    ("Hi!", "Hello, how are you?", ["Go away."], "a"),
    ("I feel tired.", "Rest.", [], "b"),
    ("Why?", "You could drink some water, and walk.", ["No.", "I like to steal."], "a"),
    ("What now?", "Walk in the park.", ["Who asks?"], "d"),
]


class DefaultTeacher(DialogTeacher):
    def __init__(self, opt, shared=None):
        super().__init__({**opt, "datafile": "joint"}, shared)

    def setup_data(self, datafile):
        share = len(ROWS) // num_workers()
        for text, label, negatives, group in ROWS[get_rank() * share :][:share]:
            yield {
                "text": text,
                "labels": [label],
                "negatives": negatives,
                "contrast_group": group,
            }, True
"""


def test_two_processes_train_as_one_with_the_joint_batch(parlai, tiny_backbones, monkeypatch):
    package = parlai.folder / "joint"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "task.py").write_text(JOINT_TASK)
    monkeypatch.setenv("PYTHONPATH", str(parlai.folder))

    def train(name, script, batchsize, *flags):
        parlai(
            *[script, "-m", "prosocial", "-t", "joint.task", "-mf", f"{name}/model", *flags],
            *["--backbone", tiny_backbones["llama"], "--lora-rank", "0", "--precision", "fp32"],
            *["--contrast-score", "likelihood+cosine", "--in-batch-negatives", "1"],
            # Plain SGD: Adam's first step is the gradient's sign, also where it is rounding noise.
            *["--optimizer", "sgd", "--learningrate", "0.5", "--lr-scheduler", "none"],
            *["--datatype", "train:ordered", "--batchsize", str(batchsize)],
            *["--max-train-steps", "1", "--skip-generation", "true"],
        )
        manifest = json.loads((parlai.folder / name / "model").read_text())
        folder = parlai.folder / name / manifest["weights"]
        return load_file(folder / "model.safetensors") | load_file(
            folder / "contrast_head.safetensors"
        )

    joint = train("one", "train_model", 4)
    spread = train("two", "multiprocessing_train", 2, "--distributed-world-size", "2")
    before = load_file(tiny_backbones["llama"] / "model.safetensors")
    assert max((joint[name] - before[name]).abs().max() for name in before) > 1e-2
    for name, tensor in joint.items():
        torch.testing.assert_close(spread[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["zero2", "zero3"])
def test_sharding_is_refused_with_its_reason(backend, monkeypatch):
    from parlai_prosocial.agents import options

    parser = ParlaiParser(True, True)
    opt = parser.parse_args(["-m", "prosocial", "--datatype", "train"])
    opt["ddp_backend"] = backend
    options.check(opt)  # one process shards nothing
    monkeypatch.setattr(options, "is_distributed", lambda: True)
    with pytest.raises(UserError, match=f"--ddp-backend {backend}: ParlAI shards no model"):
        options.check(opt)
    options.check(opt | {"ddp_backend": "ddp"})
    options.check(opt | {"datatype": "valid"})


@pytest.mark.parametrize("datatype", ["train:ordered", "train:stream"])
def test_two_processes_share_out_our_tasks(parlai, tiny_backbones, datatype):
    rows = [
        {
            "context": f"I took {i} of them.",
            "response": f"Could you give {i} back?",
            "negatives": [f"Take {i} more.", "Fine.", f"Well done, {i}!"],
            "split": split,
        }
        # The end of the data falls within a batch.
        for i, split in enumerate(["train"] * 7 + ["valid", "test"])
    ]
    (parlai.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(script, batchsize, *flags):
        name = f"{datatype.replace(':', '_')}_{script}"
        parlai(
            *[script, "-m", "prosocial", "-t", "prosocial:Own", "-mf", f"{name}/model", *flags],
            *["--prosocial-data", "rows.jsonl", "--backbone", tiny_backbones["llama"]],
            *["--lora-rank", "0", "--precision", "fp32", "--negatives", "2", "--seed", "3"],
            *["--in-batch-negatives", "1", "--permute-weights", "true"],
            *["--optimizer", "sgd", "--learningrate", "0.2", "--lr-scheduler", "none"],
            *["--datatype", datatype, "--batchsize", str(batchsize), "--max-train-steps", "5"],
            *["--skip-generation", "true"],
        )
        manifest = json.loads((parlai.folder / name / "model").read_text())
        return load_file(parlai.folder / name / manifest["weights"] / "model.safetensors")

    joint = train("train_model", 4)
    spread = train("multiprocessing_train", 2, "--distributed-world-size", "2")
    before = load_file(tiny_backbones["llama"] / "model.safetensors")
    assert max((joint[name] - before[name]).abs().max() for name in before) > 1e-2
    for name, tensor in joint.items():
        torch.testing.assert_close(spread[name], tensor, rtol=1e-5, atol=1e-5)
