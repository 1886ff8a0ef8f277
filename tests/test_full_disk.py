"""On a disk that is really full the commands say so in one line, and what was complete is whole."""

import json
import os
import subprocess

import pytest

from parlai_prosocial.models.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of 2 MB of its own."""
    place = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root; tests/util/test_files.py has the same by a limit")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def full(disk):
    """Fills what is left of the disk, and makes room again afterwards."""
    filler = disk / "filler"

    def fill():
        with open(filler, "wb", buffering=0) as stream:
            try:
                while stream.write(b"x" * 1024):
                    pass
            except OSError:
                pass
        assert os.statvfs(disk).f_bavail == 0

    yield fill
    filler.unlink(missing_ok=True)


def refused(*command, place):
    done = subprocess.run(map(str, command), capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {place}") and "No space left on device" in last
    assert "make room" in last


def test_training(disk, full, tiny_backbones, tmp_path):
    rows = tmp_path / "talk.jsonl"
    row = {"context": ["Hi!"], "response": "Hello there.", "negatives": ["Go away."]}
    rows.write_text(
        "".join(json.dumps(row | {"split": s}) + "\n" for s in ("train", "valid", "test"))
    )
    model = disk / "runs" / "model"
    train = ["parlai", "train_model", "-m", "prosocial", "-t", "prosocial:Own"]
    train += ["--prosocial-data", rows, "--datapath", tmp_path / "data", "--backbone"]
    train += [tiny_backbones["llama"], "--lora-rank", 2, "--precision", "fp32", "-bs", 1]
    train += ["--skip-generation", "true", "--validation-every-n-steps", 1, "-mf", model]
    train += [
        "--lr-scheduler",
        "none",
        "--validation-metric",
        "ppl",
        "--save-after-valid",
        "true",
        "--max-train-steps",
    ]
    done = subprocess.run([*map(str, train), "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before = Checkpoint(str(model)).training_state()
    full()
    refused(*train, 6, "--change-settings", "true", place=f"{model}")
    assert Checkpoint(str(model)).training_state().keys() == before.keys()
    assert not [file for file in model.parent.rglob("*") if ".part" in file.name]


def test_export(disk, full, tiny_backbones):
    full()
    out = disk / "exported"
    refused("prosocial", "export", "hf", "--model", tiny_backbones["gpt2"], "--out", out, place=out)
    assert not list(disk.glob("exported*"))


def test_evaluation(disk, full, tiny_backbones, tmp_path):
    full()
    command = ["prosocial", "evaluate", "--suite", "casual", "--model", tiny_backbones["gpt2"]]
    command += ["--limit", 2, "--max-tokens", 4, "--datapath", tmp_path, "--out"]
    refused(*command, disk / "evaluated", place=disk / "evaluated")


def test_mining(disk, full, tiny_backbones, tmp_path):
    full()
    command = ["prosocial", "mine", "--task", "self_dialogue", "--model", tiny_backbones["gpt2"]]
    command += ["--casual", "--synthetic-cap", 0, "--limit", 2, "--samples", 1, "--max-tokens", 4]
    out = disk / "mined.jsonl"
    refused(*command, "--datapath", tmp_path, "--out", out, place=out)
    assert not out.exists()
