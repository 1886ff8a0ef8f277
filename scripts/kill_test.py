"""Kill training at random points and check that it ends with the weights it would have had.

A tiny random model is trained by `prosocial train` in two steps, once without interruption. Then
runs are killed with SIGKILL (all their processes) up to six times, at random steps and moments of
them or while they start, run again after every kill, and at last to their end; the sha256 of both
steps' weights must be those of the first run. A run that ended before its kill is no point. The
points under two processes do the same with `parlai multiprocessing_train`, step 1 and then step 2.
On the CPU in float32.

Run it through `make kill-test`. The exit status is 1 if a single weight differs.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEPS = ("step1", "step2")
PRESET = {
    "model": "prosocial",
    "optimizer": "adamw",
    "lr_scheduler": "linear",
    "warmup_updates": 5,
    "learningrate": 0.001,
    "lora_rank": 4,
    "precision": "fp32",
    "text_truncate": 64,
    "label_truncate": 24,
    "batchsize": 4,
    "negatives": 2,
    "in_batch_negatives": 1,
    "max_train_steps": 60,
    "save_every_n_secs": 0.05,
    "log_every_n_steps": 10,
    "validation_max_exs": 8,
    "short_final_eval": True,
    "skip_generation": True,
    "seed": 3,
}
TASKS = {
    "step1": {"task": "diasafety:Contrastive", "diasafety_cross_negatives": 2},
    "step2": {
        "task": "self_dialogue,diasafety:Contrastive",
        "multitask_weights": [1.0, 1.0],
        # The result is then the best by perplexity, of step 20 or 40.
        "validation_every_n_steps": 20,
        "validation_metric": "ppl",
    },
}
BIN = Path(sys.executable).parent


def write_inputs(folder: Path) -> None:
    """The recipe and a random model of 40,000 parameters with a byte tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    recipe = folder / "recipe"
    recipe.mkdir()
    for step in STEPS:
        (recipe / f"{step}.opt").write_text(json.dumps(PRESET | TASKS[step]))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[2], pad_token=special[2]
    )
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.save_pretrained(folder / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")


def train_commands(folder: Path, out: Path, processes: int) -> list[list[str]]:
    """The commands that train both steps into ``out``."""
    base = str(folder / "base")
    if processes == 1:
        arguments = ["--recipe", str(folder / "recipe"), "--base", base, "--out", str(out)]
        return [[str(BIN / "prosocial"), "train", *arguments]]
    commands = []
    for step in STEPS:
        command = [str(BIN / "parlai"), "multiprocessing_train", "--no-cuda"]
        command += ["--distributed-world-size", str(processes), "--ddp-backend", "ddp"]
        command += ["-o", str(folder / "recipe" / f"{step}.opt"), "--backbone", base]
        command += ["-mf", str(out / step / "model")]
        if step == "step2":
            command += ["--init-model", str(out / "step1" / "model")]
        commands.append(command)
    return commands


@dataclass(frozen=True)
class Kill:
    """When a run is killed.

    Attributes:
        progress: how far its newest checkpoint is, as :func:`progress`; 0: it has started.
        seconds: so long after that.
    """

    progress: int
    seconds: float


def run(commands: Sequence[Sequence[str]], out: Path, log: Path, kill: Kill | None = None) -> bool:
    """Run commands one after the other; whether they ended before they were killed.

    Args:
        commands: what trains into ``out``.
        log: gets their output.
        kill: when to kill all their processes; None: not at all.
    """
    due = time.monotonic() + kill.seconds if kill and kill.progress == 0 else None
    for command in commands:
        with log.open("a") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        while process.poll() is None:
            time.sleep(0.005)
            if kill and due is None and progress(out) >= kill.progress:
                due = time.monotonic() + kill.seconds
            if due and time.monotonic() > due:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False
        if process.returncode:
            raise SystemExit(
                f"exit status {process.returncode}; see {log}:\n{log.read_text()[-2000:]}"
            )
    return True


def weights_sha256(out: Path) -> dict[str, str]:
    """Step -> hash of its result's weights."""
    hashes = {}
    for step in STEPS:
        manifest = json.loads((out / step / "model").read_text())
        digest = hashlib.sha256()
        for file in sorted((out / step / manifest["weights"]).glob("*.safetensors")):
            digest.update(file.read_bytes())
        hashes[step] = digest.hexdigest()
    return hashes


def saved(out: Path) -> tuple[str, int] | None:
    """The step that is being trained and the optimiser steps of its newest checkpoint."""
    for step in reversed(STEPS):
        found = []
        for file in (out / step).glob("*.trainstats"):
            with contextlib.suppress(ValueError, FileNotFoundError):  # being written
                found.append(json.loads(file.read_text())["train_steps"])
        if found:
            return step, max(found)
    return None


def progress(out: Path) -> int:
    """Optimiser steps of both steps up to the newest checkpoint."""
    at = saved(out)
    return STEPS.index(at[0]) * PRESET["max_train_steps"] + at[1] if at else 0


def test_points(folder: Path, processes: int, points: int, rng: random.Random) -> int:
    """Kill at so many points; returns in how many runs the weights differed."""
    whole, log = folder / f"whole-{processes}", folder / f"whole-{processes}.log"
    run(train_commands(folder, whole, processes), whole, log)
    expected = weights_sha256(whole)
    print(f"{processes} process(es), uninterrupted, weights:", flush=True)
    for step, digest in expected.items():
        print(f"  {step} sha256 {digest}", flush=True)
    wrong = point = 0
    for number in itertools.count():
        out, log = folder / f"killed-{processes}-{number}", folder / f"{processes}-{number}.log"
        commands = train_commands(folder, out, processes)
        # In order, so that a run is killed all the way; a second is a few steps, or a validation.
        for at in sorted(rng.randrange(len(STEPS) * PRESET["max_train_steps"]) for _ in range(6)):
            starting = rng.random() < 0.2
            kill = Kill(0, rng.uniform(0, 6)) if starting else Kill(at, rng.uniform(0, 1))
            if point == points or run(commands, out, log, kill):
                break
            point += 1
            when = "its start" if starting else f"step {at} of both"
            newest = saved(out)
            left = f"{newest[0]}, checkpoint of step {newest[1]}" if newest else "no checkpoint"
            print(
                f"[{point}/{points}] SIGKILL {kill.seconds:4.2f} s after {when}: {left}", flush=True
            )
        run(commands, out, log)
        same = weights_sha256(out) == expected
        wrong += not same
        print(f"  and then to the end: {'bit-identical' if same else 'OTHER WEIGHTS'}", flush=True)
        if point == points:
            return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=50, help="kills of one process")
    parser.add_argument("--two-process-points", type=int, default=10, help="kills of two")
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    rng = random.Random(arguments.seed)
    print("python", *sys.argv, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PARLAI_DATAPATH"] = str(folder / "data")
        write_inputs(folder)
        wrong = test_points(folder, 1, arguments.points, rng)
        wrong += test_points(folder, 2, arguments.two_process_points, rng)
    print(f"runs with other weights: {wrong}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
