"""Kill training at random points and check that it ends with the weights it would have had.

A tiny random model is trained by `prosocial train` in two steps, once without interruption. Then
runs are killed with SIGKILL (all their processes) at random times, five times each, run again after
every kill, and at last to their end; the sha256 of both steps' weights must be those of the first
run. The points under two processes do the same with `parlai multiprocessing_train`, step 1 and then
step 2. On the CPU in float32.

Run it through `make kill-test`. The exit status is 1 if a single weight differs.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
KILLS_OF_A_RUN = 5
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


def run(
    commands: Sequence[Sequence[str]], out: Path, log: Path, kill_after: float | None = None
) -> tuple[bool, float]:
    """Run commands one after the other.

    Args:
        commands: what trains into ``out``.
        log: gets their output.
        kill_after: seconds after the first new checkpoint; less than 0: so many seconds after the
            start; None: not at all.

    Returns:
        Whether they ended before they were killed, and the seconds after the first checkpoint.
    """
    began = time.time()
    first = None if kill_after is None or kill_after >= 0 else began
    delay = abs(kill_after) if kill_after is not None else float("inf")
    for command in commands:
        with log.open("a") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        while process.poll() is None:
            time.sleep(0.005)
            if first is None and _saved_since(out, began):
                first = time.time()
            if first is not None and time.time() - first > delay:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False, time.time() - first
        if process.returncode:
            raise SystemExit(
                f"exit status {process.returncode}; see {log}:\n{log.read_text()[-2000:]}"
            )
    return True, time.time() - (first or began)


def _saved_since(out: Path, began: float) -> bool:
    files = [out / step / name for step in STEPS for name in ("model", "model.checkpoint")]
    return any(file.exists() and file.stat().st_mtime > began for file in files)


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


def where(out: Path) -> str:
    """The step and the last checkpoint that a kill has left."""
    for step in reversed(STEPS):
        for name in ("model", "model.checkpoint"):
            stats = out / step / f"{name}.trainstats"
            if stats.exists():
                try:
                    steps = json.loads(stats.read_text())["train_steps"]
                except ValueError:
                    steps = "a torn file"
                return f"{step}, {name} of step {steps}"
    return "no checkpoint yet"


def test_points(folder: Path, processes: int, points: int, rng: random.Random) -> int:
    """Kill at so many points; returns in how many runs the weights differed."""
    whole, log = folder / f"whole-{processes}", folder / f"whole-{processes}.log"
    _, seconds = run(train_commands(folder, whole, processes), whole, log)
    expected = weights_sha256(whole)
    print(f"{processes} process(es), uninterrupted, weights:", flush=True)
    for step, digest in expected.items():
        print(f"  {step} sha256 {digest}", flush=True)
    wrong = point = 0
    while point < points:
        out, log = folder / f"killed-{processes}-{point}", folder / f"{processes}-{point}.log"
        commands = train_commands(folder, out, processes)
        for _ in range(KILLS_OF_A_RUN):
            point += 1
            # One in five while it starts; the others while it trains, saves or evaluates.
            early = rng.random() < 0.2
            after = -rng.uniform(0, 5) if early else rng.uniform(0, seconds / 3)
            ended, _ = run(commands, out, log, after)
            when = "its start" if early else "a checkpoint"
            left = "it had ended" if ended else where(out)
            print(
                f"[{point}/{points}] SIGKILL {abs(after):5.2f} s after {when}: {left}", flush=True
            )
        run(commands, out, log)
        same = weights_sha256(out) == expected
        wrong += not same
        print(f"  and then to the end: {'bit-identical' if same else 'OTHER WEIGHTS'}", flush=True)
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
