"""Kill `prosocial improve` at random moments and check that it ends with the same bytes.

Its arguments run once to their end, then in another folder, where the run is killed with SIGKILL
(all its processes) after random times, started again after each, and at last let to its end:
replies, judgements, pairs, weights, measurements and the summary's tables must be the same bytes.

    python scripts/kill_rounds.py --out runs/kill-rounds --model zoo:prosocial/smollm2_135m_mle ...

What is not named here goes to `prosocial improve`. The exit status is 1 if a single file differs.
"""

import argparse
import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
COMPARED = ("*.jsonl", "*.safetensors", "valid.json", "pairs.summary.json", "summary.md")
"""The other files tell times, paths and how often the run was started."""


def improve(arguments: list[str], out: Path, seconds: float | None = None) -> bool:
    """Run it, and kill it after so many seconds; whether it came to its end."""
    with open(f"{out}.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(BIN / "prosocial"), "improve", *arguments, "--out", str(out)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(seconds):
                raise SystemExit(f"exit status {process.returncode}; see {log.name}")
            return True
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def newest(out: Path) -> str:
    """The file that was written last before a kill."""
    files = [file for file in out.rglob("*") if file.is_file() and file.suffix != ".lock"]
    if not files:
        return "nothing was written"
    return str(max(files, key=lambda file: file.stat().st_mtime).relative_to(out))


def content(out: Path, file: Path) -> bytes:
    """A file's bytes, without the folder's own path."""
    return (out / file).read_bytes().replace(str(out).encode(), b"OUT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=10, help="most kills")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    given, arguments = parser.parse_known_args()
    rng = random.Random(given.seed)
    given.out.mkdir(parents=True)
    whole, killed = given.out / "whole", given.out / "killed"
    print(shlex.join(["python", *sys.argv]), flush=True)
    started = time.monotonic()
    improve(arguments, whole)
    took = time.monotonic() - started
    print(f"uninterrupted: {took:.0f} s", flush=True)
    for number in range(1, given.kills + 1):
        # A start alone takes seconds, and an interrupted piece of work begins anew.
        seconds = rng.uniform(0.05, 0.35) * took
        if improve(arguments, killed, seconds):
            print("it came to its end before the next kill", flush=True)
            break
        print(f"[{number}] SIGKILL after {seconds:.1f} s, while at {newest(killed)}", flush=True)
    improve(arguments, killed)
    files = sorted(
        {file.relative_to(whole) for pattern in COMPARED for file in whole.rglob(pattern)}
    )
    differ = [
        f for f in files if not (killed / f).is_file() or content(whole, f) != content(killed, f)
    ]
    for file in files:
        print(f"{'OTHER BYTES' if file in differ else 'same bytes '} {file}", flush=True)
    print(f"files with other bytes: {len(differ)} of {len(files)}")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
