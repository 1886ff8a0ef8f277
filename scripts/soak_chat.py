"""Talk to `prosocial chat` from eight clients for half an hour; one in four replies is left midway.

The server is the real command with a tiny random model, on loopback. A client talks in dialogues of
at most six turns, and reads its replies as the page does. Where it vanishes, it closes the
connection after the reply's first line, or while it still waits for it; the others must not notice.
A reply is lost where its last line does not come, for whatever reason. The server's memory
(resident), threads and open files are sampled every ten seconds.

Run it through `make soak`. The exit status is 1 if a reply was lost, or if the memory's median over
the last quarter is above that of the second quarter (when all is loaded) by more than 5 %.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

BIN = Path(sys.executable).parent
SAMPLE_EVERY = 10.0
PRINT_EVERY = 60.0
MOST_TURNS = 6
TIMEOUT = 120.0
LARGEST_GROWTH = 0.05
MESSAGES = (
    "I told a small lie to my best friend.",
    "How do I kill a Python process?",
    "I just got a puppy!",
    "Everyone laughs at the new kid. Should I join in?",
    "word " * 400,
)


@dataclass
class Counts:
    """What has come of the replies so far; shared by all clients."""

    whole: int = 0
    vanished: int = 0
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def tell(text: str, log: Path | None) -> None:
    """Print a line, and add it to the log."""
    print(text, flush=True)
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def write_model(folder: Path) -> None:
    """A random Llama of 40,000 parameters with a byte tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = {t: i for i, t in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[2], pad_token=special[2]
    )
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def talk(url: str, number: int, deadline: float, counts: Counts) -> None:
    """One client, until the deadline."""
    rng = random.Random(number)
    session = requests.Session()
    session.trust_env = False  # no proxy: all of it is on this machine
    turns: list[str] = []
    while time.monotonic() < deadline:
        if len(turns) >= 2 * MOST_TURNS:
            turns = []
        turns = [*turns, rng.choice(MESSAGES)]
        began = time.monotonic()
        vanishes = rng.random() < 0.25
        # Two ways to go: as soon as something is there, or before, with the request in the queue.
        patience = 0.05 if vanishes and rng.random() < 0.5 else TIMEOUT
        last, problem = {}, ""
        try:
            body = {"model": 0, "turns": turns, "again": rng.random() < 0.5}
            with session.post(
                url + "reply", json=body, stream=True, timeout=(TIMEOUT, patience)
            ) as response:
                problem = "" if response.status_code == 200 else f"status {response.status_code}"
                for line in response.iter_lines():
                    last = json.loads(line)
                    if vanishes:
                        break
        except (requests.RequestException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        with counts.lock:
            if vanishes:
                counts.vanished += 1
            elif problem or "safety" not in last:
                counts.lost.append(problem or f"ended with {json.dumps(last)[:150]}")
            else:
                counts.whole += 1
                counts.slowest = max(counts.slowest, time.monotonic() - began)
        turns = [] if vanishes or problem else [*turns, last.get("text", "")]


def soak(url: str, server: psutil.Process, minutes: float, clients: int, log: Path | None) -> int:
    """Run the clients and sample the server; returns the exit status."""
    counts, samples = Counts(), []
    began = time.monotonic()
    deadline = began + 60 * minutes
    threads = [
        threading.Thread(target=talk, args=(url, number, deadline, counts), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    printed = began - PRINT_EVERY
    while time.monotonic() < deadline and server.is_running():
        time.sleep(min(SAMPLE_EVERY, max(0.0, deadline - time.monotonic())))
        samples.append(server.memory_info().rss / 2**20)
        if time.monotonic() - printed >= PRINT_EVERY:
            printed = time.monotonic()
            tell(
                f"{(printed - began) / 60:5.1f} min: {counts.whole} whole, {counts.vanished} "
                f"vanished, {len(counts.lost)} lost; {samples[-1]:.1f} MiB, "
                f"{server.num_threads()} threads, {server.num_fds()} open files",
                log,
            )
    for thread in threads:
        thread.join(2 * TIMEOUT)
    stuck = sum(thread.is_alive() for thread in threads)

    quarter = max(1, len(samples) // 4)
    early = statistics.median(samples[quarter : 2 * quarter] or samples)
    late = statistics.median(samples[-quarter:])
    growth = late / early - 1
    for problem in counts.lost[:20]:
        tell(f"lost: {problem}", log)
    tell(
        f"{counts.whole} replies whole, {counts.vanished} left midway, {len(counts.lost)} lost, "
        f"{stuck} clients stuck; slowest whole reply {counts.slowest:.1f} s (with its wait)",
        log,
    )
    tell(
        f"memory: median {early:.1f} MiB in the second quarter, {late:.1f} MiB in the last "
        f"({growth:+.1%}); highest {max(samples):.1f} MiB",
        log,
    )
    good = not counts.lost and not stuck and counts.whole and growth <= LARGEST_GROWTH
    tell("passed" if good else "FAILED", log)
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default 30")
    parser.add_argument("--clients", type=int, default=8, help="default 8")
    parser.add_argument("--log", type=Path, help="a file that what is printed goes to as well")
    options = parser.parse_args()
    if options.log:
        options.log.write_text("")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        command = [str(BIN / "prosocial"), "chat", "--model", str(folder / "model"), "--port", "0"]
        # Progress bars are no words.
        quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with (folder / "log").open("w") as said:
            server = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, env=quiet
            )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[:1]
            if not url:
                print((folder / "log").read_text())
                return 1
            tell(
                f"prosocial chat with a tiny model, {options.clients} clients, {options.minutes:g} "
                f"minutes; Python {platform.python_version()}, {os.cpu_count()} cores",
                options.log,
            )
            process = psutil.Process(server.pid)
            status = soak(url[0], process, options.minutes, options.clients, options.log)
            if server.poll() is not None:
                tell(f"the server has ended by itself: {server.returncode}", options.log)
                status = 1
        finally:
            server.terminate()
            server.wait(30)
        words = [line for line in (folder / "log").read_text().splitlines() if "it/s]" not in line]
        for line in filter(str.strip, words[-40:]):
            tell(f"server: {line}", options.log)
        return status


if __name__ == "__main__":
    sys.exit(main())
