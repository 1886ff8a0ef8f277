"""Readers of our own files given mutated ones: each must be read, or refused by one UserError.

    python scripts/fuzz.py --inputs 1000000        # what benchmarks/results/fuzz.log holds
    python scripts/fuzz.py --seconds 25            # what the test suite does

An input is a whole file (``tests/made_before/files``, and what is written below) with one to four
changes: bits, bytes and lines of its text, or fields of its JSON, whose values become those that
readers stumble over. The inputs follow from ``--seed`` alone. Exit status 1 where a reader ended in
anything but a UserError of one line, or took more than :data:`PATIENCE` seconds of the processor;
each such input is kept under ``--keep``.
"""

import argparse
import contextlib
import json
import logging
import math
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import mutated_bytes, mutated_json

FILES = Path(__file__).parents[1] / "tests" / "made_before" / "files"
PATIENCE = 10


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Attributes:
        seeds: whole files.
        read: given the file, which lies alone in a folder with what ``beside`` put there.
        name: of the file.
        share: of all inputs; slow readers have less.
        beside: what else lies in the folder.
    """

    seeds: list[bytes]
    read: Callable[[Path], Any]
    name: str
    share: float = 1.0
    beside: Callable[[Path], Any] = lambda folder: None


class TooSlow(BaseException):
    """Of the timer, so that no reader catches it."""


def mutated(reader: Reader, chance: random.Random) -> bytes:
    data = chance.choice(reader.seeds)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        change = mutated_json if chance.random() < 0.6 else mutated_bytes
        data = change(data, chance)
    return data


def tried(reader: Reader, file: Path) -> str | None:
    """None where the file was read; "refused" for a UserError; else what went wrong."""
    from parlai_prosocial.errors import UserError

    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        reader.read(file)
        return None
    except UserError as error:
        return "refused" if "\n" not in str(error) else "UserError of several lines"
    except TooSlow:
        return f"more than {PATIENCE} s"
    except Exception as error:
        at = error.__traceback__
        while at and at.tb_next:
            at = at.tb_next
        where = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else ""
        return f"{type(error).__name__} at {where}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def lines_of(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def readers() -> dict[str, Reader]:
    """Every reader of a file that we write, by its name."""
    from parlai_prosocial.cards.measured import read_results
    from parlai_prosocial.chat.transcript import check_transcript, conversations_line, own_rows
    from parlai_prosocial.compat.pickles import read_options, read_states
    from parlai_prosocial.data import own
    from parlai_prosocial.data.reader import checked_rows
    from parlai_prosocial.evaluation.records import read_log
    from parlai_prosocial.evaluation.results.folder import Evaluation
    from parlai_prosocial.evaluation.validation.labels.parts import join
    from parlai_prosocial.evaluation.validation.labels.sheets import read_sheet
    from parlai_prosocial.experiments.machine import saved_rows
    from parlai_prosocial.experiments.train_arms import read_design
    from parlai_prosocial.export.gguf import write_gguf
    from parlai_prosocial.models.checkpoint import Checkpoint
    from parlai_prosocial.models.classifier import ClassifierCheckpoint
    from parlai_prosocial.training.recipe import finished_before as finished_step
    from parlai_prosocial.util.journal import Journal, begun_with, finished_before
    from parlai_prosocial.zoo.entry import ENTRIES, read_entry

    def seeds(*names: str) -> list[bytes]:
        return [(FILES / name).read_bytes() for name in names]

    def hashed(kind: type, source: str, **more: Any) -> Reader:
        """A checkpoint's manifest, with the hashes that are written by now."""
        from parlai_prosocial.models.checkpoint import _records

        old = json.loads((FILES / source / "model").read_text())
        folder = FILES / source / old["weights"]
        new = old | {"files": _records(folder), "previous": {"weights": "model.hf-000001"}}

        def beside(place: Path) -> None:
            shutil.copytree(folder, place / folder.name)

        def read(file: Path) -> None:
            found = kind(str(file))
            found.training_state()
            if kind is ClassifierCheckpoint:
                _ = found.temperature

        whole = [json.dumps(content).encode() for content in (old, new)]
        return Reader(whole, read, "model", beside=beside, **more)

    def info(kind: type, source: str) -> Reader:
        manifest = json.loads((FILES / source / "model").read_text())

        def read(file: Path) -> None:
            shutil.copyfile(FILES / source / "model", file.parent / "model")
            shutil.rmtree(file.parent / manifest["weights"], ignore_errors=True)
            (file.parent / manifest["weights"]).mkdir()
            shutil.copyfile(file, file.parent / manifest["weights"] / "prosocial.json")
            kind(str(file.parent / "model"))

        whole = seeds(f"{source}/{manifest['weights']}/prosocial.json")
        return Reader(whole, read, "info.json", 0.3)

    def state(file: Path) -> None:
        checkpoint = Checkpoint.of_folder(file.parent)
        checkpoint.training_state()

    def journal(file: Path) -> None:
        out = file.with_name("out.jsonl")
        begun_with(out, "precision")
        Journal(out, {"a": 1})

    def mined(file: Path) -> None:
        out = file.with_name("out.jsonl")
        out.write_text("{}\n")
        begun_with(out, "precision")
        finished_before(out, {"a": 1})

    def transcript(file: Path) -> None:
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return  # the server's own part, which tests/chat/test_server.py has
        checked = check_transcript(content)
        conversations_line(checked)
        own_rows(checked)

    def evaluation(file: Path) -> None:
        str(Evaluation.load(file.parent))

    def gguf(file: Path) -> None:
        write_gguf(file.parent, file.with_name("model.gguf"))

    def exported(place: Path) -> None:
        for one in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copyfile(FILES / "exported" / one, place / one)

    def rows(schema: Any) -> Callable[[Path], Any]:
        return lambda file: list(checked_rows(file, schema))

    reply = {"versions": [{"text": "Hi!", "rots": ["Be kind."], "safety": None, "edited": False,
                           "flag": {"reason": "rude", "note": "", "better": "Hello."}}],
             "shown": 0}  # fmt: skip
    turn = {"context": ["Hello"], "message": "How are you?", "replies": [reply], "chosen": 0,
            "safety": {"label": "__casual__", "probability": 0.9}}  # fmt: skip
    talk = {"models": ["m"], "classifier": None, "turns": [turn, turn], "replaced": [turn]}
    sheet = {"id": "unsafe-1", "axis": "unsafe", "suite": "s", "context": ["a", "b"], "reply": "c",
             "label_1": True, "label_2": False, "severity_1": 3, "severity_2": None,
             "answers_1": True, "answers_2": None, "labeller": "L", "guidelines": "0"}  # fmt: skip
    part = {"id": "unsafe-1", "axis": "unsafe", "suite": "s", "context": ["a"], "reply": "c",
            "pass": 1, "guidelines": "0", "label": True, "severity": 2, "answers": True,
            "labeller": "L"}  # fmt: skip
    step = {"model_file": "m", "steps": 3, "tokens": 5, "seconds": 1.5, "command": "c"}
    saved = {"measured_on": {}, "results": {"mle": {"mined": None}}, "demo_replies": {}}
    entries = [f.read_bytes() for f in sorted(ENTRIES.glob("*.json")) if f.stat().st_size < 9000]
    recipes = Path(sys.modules[read_design.__module__].__file__ or "").parents[1] / "recipes"
    own_row = [
        b"\n".join(seed.split(b"\n")[:3]) + b"\n"
        for seed in seeds("talk.jsonl", "mined.jsonl", "annotated.jsonl")
    ]
    table = json.dumps({"tables": json.loads(seeds("evaluated/summary.json")[0])["tables"]})
    return {
        "journal": Reader(
            [lines_of({"a": 1}, {"chunk": 0, "content": 1}, {"chunk": "b", "content": [2]}),
             *seeds("stopped.jsonl.journal")], journal, "out.jsonl.journal",
        ),
        "summary of mining": Reader(
            [*seeds("mined.summary.json", "annotated.summary.json"), b'{"settings": {"a": 1}}'],
            mined, "out.summary.json",
        ),
        "summary of evaluate": Reader(
            seeds("evaluated/summary.json"), evaluation, "summary.json", 0.3,
            beside=lambda place: shutil.copyfile(
                FILES / "evaluated/log.jsonl", place / "log.jsonl"),
        ),
        "log of evaluate": Reader(seeds("evaluated/log.jsonl"), read_log, "log.jsonl", 0.5),
        "results": Reader([table.encode()], lambda f: read_results(f, "row"), "r.json", 0.3),
        "manifest": hashed(Checkpoint, "lora", share=0.7),
        "manifest of a classifier": hashed(ClassifierCheckpoint, "judge", share=0.7),
        "facts of a model": info(Checkpoint, "lora"),
        "facts of a classifier": info(ClassifierCheckpoint, "judge"),
        "training state": Reader(
            seeds("lora/model.hf-000002/training.pt"), state, "training.pt", 0.3
        ),
        "weights of ParlAI": Reader(
            seeds("lora/model.hf-000002/training.pt"), read_states, "model", 0.3
        ),
        "options": Reader(seeds("lora/model.opt"), read_options, "model.opt"),
        "zoo entry": Reader(entries, read_entry, f"{json.loads(entries[0])['name']}.json"),
        "transcript": Reader([json.dumps(talk).encode()], transcript, "talk.json"),
        "labels sheet": Reader([lines_of(sheet, sheet | {"id": "2"})], read_sheet, "s.jsonl"),
        "labels part": Reader(
            [lines_of(part, part | {"id": "2"})], lambda f: join([f]), "p.jsonl"
        ),
        "own data, JSON Lines": Reader(own_row, rows(own.SCHEMA), "own.jsonl"),
        "own data, JSON": Reader(
            [json.dumps([json.loads(line) for line in seed.splitlines()]).encode()
             for seed in own_row], rows(own.SCHEMA), "own.json", 0.5,
        ),
        "own data, CSV": Reader(
            [b'context,response,negatives\n"[""a""]",b,"[""c""]"\n"x\ny",d,\n'],
            rows(own.SCHEMA), "own.csv", 0.5,
        ),
        "recipe's arms": Reader(
            [f.read_bytes() for f in recipes.glob("*/arms.json")],
            lambda f: read_design(f.parent), "arms.json", 0.5,
        ),
        "recipe's options": Reader(
            [f.read_bytes() for f in recipes.glob("*/*.opt")], read_options, "step1.opt", 0.5
        ),
        "finished step": Reader(
            [json.dumps(step).encode()], lambda f: finished_step(f.parent, "c"), "finished.json"
        ),
        "saved rows": Reader(
            [json.dumps(saved).encode()], lambda f: saved_rows(f, {}), "rows.json"
        ),
        "GGUF, its config": Reader(
            seeds("exported/config.json"), gguf, "config.json", 0.01, exported
        ),
        "GGUF, its tokenizer": Reader(
            seeds("exported/tokenizer.json"), gguf, "tokenizer.json", 0.01, exported
        ),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--inputs", type=int, default=1_000_000, help="In all.")
    options.add_argument("--seconds", type=float, help="Stop after this time.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", help="One reader, by its name.")
    options.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    given = options.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    def too_slow(*_: Any) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    chosen = {n: r for n, r in readers().items() if given.only in (None, n)}
    total = sum(reader.share for reader in chosen.values())
    begun, wrong = time.monotonic(), 0
    memory = Path("/dev/shm")
    print("python", *sys.argv, flush=True)
    print(f"{'reader':28}{'inputs':>10}{'read':>10}{'refused':>10}{'wrong':>8}{'seconds':>9}")
    counts: Counter[str] = Counter()
    for name, reader in chosen.items():
        part, chance = reader.share / total, random.Random(f"{given.seed} {name}")
        found = Counter[str]()
        with (
            tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place,
            contextlib.redirect_stdout(None),
            contextlib.redirect_stderr(None),
        ):
            file = Path(place) / reader.name
            reader.beside(Path(place))
            file.write_bytes(reader.seeds[0])
            tried(reader, file)  # what it imports takes seconds
            started = time.monotonic()
            for _ in range(math.ceil(given.inputs * part)):
                if given.seconds and time.monotonic() - started > given.seconds * part:
                    break
                if not found or chance.random() < 0.001:
                    shutil.rmtree(place)
                    Path(place).mkdir()
                    reader.beside(Path(place))
                data = mutated(reader, chance)
                file.write_bytes(data)
                outcome = tried(reader, file) or "read"
                if outcome not in ("read", "refused") and outcome not in found:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{len(found)}-{reader.name}").write_bytes(data)
                found[outcome] += 1
        others = {k: n for k, n in found.items() if k not in ("read", "refused")}
        counts += found
        wrong += sum(others.values())
        print(
            f"{name:28}{sum(found.values()):>10,}{found['read']:>10,}{found['refused']:>10,}"
            f"{sum(others.values()):>8,}{time.monotonic() - started:>9.1f}",
            *(f"\n  {n} x {k}" for k, n in sorted(others.items())),
            flush=True,
        )
    print(
        f"{'all':28}{sum(counts.values()):>10,}{counts['read']:>10,}{counts['refused']:>10,}"
        f"{wrong:>8,}{time.monotonic() - begun:>9.1f}"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
