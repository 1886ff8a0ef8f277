"""Data goes out to other trainers and comes back, through the commands as they are typed."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.data import data

TRAIN = ["--lora-rank", "2", "--batchsize", "2", "--max-train-steps", "2", "--precision", "fp32"]
TRAIN += ["--text-truncate", "64", "--label-truncate", "16", "--skip-generation", "true"]
TRAIN += ["--validation-max-exs", "2", "--short-final-eval", "true"]


def run(*arguments):
    done = CliRunner().invoke(data, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def train(base, file, folder, *more):
    """``parlai train_model -t prosocial:Own``, in a process of its own."""
    arguments = ["train_model", "-m", "prosocial", "-t", "prosocial:Own", "--backbone", str(base)]
    arguments += ["--prosocial-data", str(file), "--datapath", str(folder / "data"), *TRAIN, *more]
    return subprocess.run(
        [sys.executable, "-m", "parlai", *arguments, "-mf", str(folder / "model")],
        capture_output=True,
        text=True,
        timeout=300,
    )


def hh_rlhf(file, count):
    rows = []
    for i in range(count):
        asked = f"\n\nHuman: I lied to friend {i}.\n\nAssistant:"
        rows.append({"chosen": f"{asked} Tell them so.", "rejected": f"{asked} Nice."})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_parlai_task_becomes_preference_data_and_trains_as_own_data(tiny_backbones, tmp_path):
    parts = []
    for split in ("train", "valid", "test"):
        out = tmp_path / f"{split}.jsonl"
        run(
            *("convert", "diasafety:Contrastive", "--to", "preference", "--datatype", split),
            *("--out", out, "--datapath", tmp_path / "data"),
        )
        parts.append(out)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for part in parts:
        lines = part.read_text("utf-8").splitlines()[:20]
        (folder / part.name).write_text("\n".join(lines) + "\n", "utf-8")
    assert "60 rows, 60 good, 0 bad\nread as preference data" in run("check", folder)
    done = train(tiny_backbones["llama"], folder, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model").is_file()


@pytest.mark.parametrize("more", [[], ["--evaltask", "self_dialogue"]], ids=["own", "other"])
def test_hh_rlhf_lines_train(more, tiny_backbones, tmp_path):
    """Few lines may leave a split empty: that is said before the training, with what to do."""
    file = tmp_path / "hh.jsonl"
    hh_rlhf(file, 40 if not more else 3)
    assert "HH-RLHF" in run("check", file)
    done = train(tiny_backbones["llama"], file, tmp_path, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model").is_file()


def test_a_file_without_rows_to_measure_on_is_refused_before_the_training(tiny_backbones, tmp_path):
    file = tmp_path / "hh.jsonl"
    hh_rlhf(file, 1)
    row = json.loads(file.read_text()) | {"split": "train"}
    file.write_text(json.dumps(row) + "\n")
    done = train(tiny_backbones["llama"], file, tmp_path)
    assert done.returncode != 0
    assert "--evaltask self_dialogue" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not (tmp_path / "model").exists()


def test_a_mixture_is_measured_on_its_tasks_that_have_rows_for_it(tiny_backbones, tmp_path):
    file = tmp_path / "mined.jsonl"
    row = {"context": "I lied.", "response": "Tell him.", "negatives": ["Nice."], "split": "train"}
    file.write_text(json.dumps(row) + "\n")
    mixture = ["-t", "prosocial:Own,self_dialogue"]
    done = train(tiny_backbones["llama"], file, tmp_path, *mixture)
    assert done.returncode == 0, done.stderr[-2000:]
    stats = json.loads((tmp_path / "model.trainstats").read_text())
    for part in ("valid", "test"):
        assert stats[f"final_{part}_report"]["exs"] == 2
        assert f"has no example for -dt {part}; it has: train" in done.stdout + done.stderr


def test_mined_pairs_train_in_trls_dpo_trainer(tiny_backbones, tmp_path):
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    mined = tmp_path / "mined.jsonl"
    row = {"context": ["I lied."], "response": "Tell him.", "negatives": ["Nice.", "Good."]}
    row |= {"negative_judges": ["words", "words"], "negative_weights": [0.9, 0.8], "split": "train"}
    mined.write_text("".join(json.dumps(row | {"source": str(i)}) + "\n" for i in range(4)))
    run("convert", mined, "--to", "preference", "--out", tmp_path / "pairs.jsonl")
    pairs = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    base = tiny_backbones["llama"]
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(base),
        args=DPOConfig(
            output_dir=str(tmp_path / "dpo"),
            max_steps=2,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    logged = trainer.state.log_history[-1]
    assert len(pairs) == 8
    assert trainer.state.global_step == 2 and (losses or "train_loss" in logged)
