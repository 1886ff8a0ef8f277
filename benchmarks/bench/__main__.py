"""``python -m benchmarks.bench``: see the package."""

import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.util.environment import VERSIONS
from parlai_prosocial.util.files import json_text, read_json, write_aside

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "benchmarks" / "results"
DEFAULT_BASE = "zoo:prosocial/smollm2_135m"
DEFAULT_CLASSIFIER = "zoo:prosocial/minilm_safety"


def say(text: str) -> None:
    click.echo(text, err=True)


@click.command()
@click.option("--rows", default="", help="Names of rows, comma-separated; default all.")
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--base", default=DEFAULT_BASE, show_default=True)
@click.option("--classifier", default=DEFAULT_CLASSIFIER, show_default=True)
@click.option("--datapath", default=None, help="ParlAI's data path.")
@click.option("--threads", type=click.IntRange(1), help="Of each process; default all cores.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="FILE.json; a .md goes beside it. Default bench.json, or bench-gpu.json, in --work.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True
)
@click.option("--note", default="", help="What ran beside, for the line on the machine.")
@click.option("--fresh", is_flag=True, help="Measure what is in the results too.")
@click.option("--continue", "goes_on", is_flag=True, help="Go on with results of another commit.")
@click.option("--list", "listed", is_flag=True, help="Print the rows' names.")
@click.option("--publish", is_flag=True, help="Copy the results to benchmarks/results; --readme.")
@click.option("--readme", is_flag=True, help="Make the README's and the docs' tables.")
@click.option("--job", hidden=True, help="Measure one job in this process.")
@click.option("--piece", hidden=True, help="JOB:SIDE:NUMBERS, pieces in this process.")
def main(**asked: Any) -> None:
    """Measure us beside what a user would pick instead; go on where a run was stopped."""
    show_user_errors_as_one_line()
    name = "bench-gpu.json" if asked["device"] == "cuda" else "bench.json"
    out = asked["out"] or asked["work"] / name
    if asked["publish"]:
        publish(out, name)
    if asked["publish"] or asked["readme"]:
        return write_parts(PUBLISHED / "bench.json")
    if asked["job"] or asked["piece"]:
        return in_this_process(asked)
    if asked["device"] == "cpu":  # before torch looks: a GPU that is not used has no rows
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from benchmarks.bench.jobs import JOBS, find_jobs

    if asked["listed"]:
        rows = {row.name: row for job in JOBS for row in job.rows}
        for row in rows.values():
            click.echo(f"{row.name:32} {row.what}, against {row.peer}")
        return None
    jobs = find_jobs([name for name in asked["rows"].split(",") if name], asked["device"] == "cuda")
    run_all(jobs, asked, out)


def run_all(jobs: list[Any], asked: dict[str, Any], out: Path) -> None:
    """Each job in a process of its own; what is known is written at once."""
    import torch

    from benchmarks.bench.table import markdown, row_facts, shown_ratio, verdict

    if asked["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    base, datapath = find_base_of(asked)
    command = [sys.executable, "-m", "benchmarks.bench", "--base", base, "--datapath", datapath]
    command += ["--classifier", asked["classifier"], "--pairs", str(asked["pairs"])]
    command += ["--work", str(asked["work"].absolute()), "--device", asked["device"]]
    threads = asked["threads"] or os.cpu_count()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    now = commit()
    result = beginning(asked, threads, out, now)
    failed = []
    for job in jobs:
        named = {row.name: row for row in job.rows}
        known = {
            row["name"]
            for row in result["rows"]
            if "ratio" in row or row["status"] == "does not fit"
        }
        if set(named) <= known:
            say(f"{job.name}: measured before")
            continue
        file = asked["work"] / f"{job.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        say(f"{time.strftime('%H:%M:%S')} {job.name}")
        started, load = time.monotonic(), os.getloadavg()[0]
        log = asked["work"] / f"{job.name}.log"
        with open(log, "w", encoding="utf-8") as errors:
            code = subprocess.run(
                [*command, "--job", job.name, "--out", str(file.absolute())],
                env=environment,
                stderr=errors,
                cwd=REPOSITORY,
            ).returncode
        found = read_json(file) if file.exists() else failure(code, log)
        rows = [
            row_facts(row)
            | {"commit": now}
            | {"job_seconds": round(time.monotonic() - started), "load": [load, os.getloadavg()[0]]}
            | (found["rows"][row.name] if "rows" in found else found)
            for row in named.values()
        ]
        result["rows"] = in_order([r for r in result["rows"] if r["name"] not in named] + rows)
        result["seconds"] += round(time.monotonic() - started)
        write_aside(out, json_text(result))
        write_aside(out.with_suffix(".md"), markdown(result))
        for row in rows:
            if "ratio" in row:
                say(f"  {row['what']}, against {row['peer']}: {shown_ratio(row)} {verdict(row)}")
            else:
                failed += [row["name"]] if row["status"] != "does not fit" else []
                say(f"  {row['name']}: {row['status']}: {row['why']}")
    shutil.rmtree(asked["work"] / "open", ignore_errors=True)  # 100 MB
    say(f"written: {out} and {out.with_suffix('.md')}")
    if failed:
        raise UserError(f"not measured: {', '.join(failed)}; the table says why")


def commit() -> str | None:
    """Of this checkout, shortened; None where it is none, or git is missing."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def failure(code: int, log: Path) -> dict[str, str]:
    """Why a job's process ended without rows."""
    from benchmarks.bench.measure import last_line

    if code == -signal.SIGKILL:  # by whom is not known, so it is tried again
        return {"status": "failed", "why": "killed by signal 9, as where memory ends"}
    if code < 0:
        return {"status": "failed", "why": f"killed by signal {-code}"}
    why = last_line(log.read_text("utf-8")).replace(f"{REPOSITORY}/", "").removeprefix("error: ")
    return {"status": "failed", "why": why}


def in_order(rows: list[dict]) -> list[dict]:
    """In the table's order, without rows that only another commit had."""
    from benchmarks.bench.jobs import JOBS

    order = [row.name for job in JOBS for row in job.rows]
    return sorted(
        (row for row in rows if row["name"] in order), key=lambda row: order.index(row["name"])
    )


def find_base_of(asked: dict[str, Any]) -> tuple[str, str]:
    """The base's folder, fetched where need be, and the data path."""
    from parlai_prosocial.zoo.resolve import find_base

    datapath = asked["datapath"] or find_datapath(None)
    folder = find_base(asked["base"], "--base", datapath)
    return str(folder.absolute()), str(Path(datapath).absolute())


def beginning(
    asked: dict[str, Any], threads: int | None, out: Path, now: str | None
) -> dict[str, Any]:
    """The results so far, or none.

    Those of another machine, other versions or settings are not mixed in, nor those of another
    commit without ``--continue``; what differs is said.
    """
    from importlib import metadata

    import torch

    from parlai_prosocial.models.precision import bf16_is_faster

    hardware = machine(asked["device"])
    facts = {
        "hardware": hardware,
        "commit": now,
        "device": asked["device"],
        "pairs": asked["pairs"],
        "threads": threads,
        "base": asked["base"],
        "versions": {name: metadata.version(name) for name in (*VERSIONS, "trl")},
    }
    if out.exists() and not asked["fresh"]:
        result = read_json(out)
        differ = [name for name in facts if result.get(name) != facts[name]]
        if not differ or (asked["goes_on"] and differ == ["commit"]):
            return result
        hint = "; --continue would go on" if differ == ["commit"] else ""
        say(f"{out}: measured anew, since it is of another {', '.join(differ)}{hint}")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    auto = "bf16" if bf16_is_faster(torch.device(asked["device"])) else "fp32"
    beside = f"; {asked['note']}" if asked["note"] else ""
    words = ["python", "-m", "benchmarks.bench"]
    words += ["--device", "cuda"] if asked["device"] == "cuda" else []
    words += ["--pairs", str(asked["pairs"]), "--threads", str(threads)]
    on = f"{hardware}, {threads} thread{'s' if threads != 1 else ''}"
    return facts | {
        "command": shlex.join(words),
        "machine": f"{on}, `auto` is {auto}{beside}; {versions}",
        "seconds": 0,
        "rows": [],
    }


def machine(device: str) -> str:
    """The processor, its cores, what of bf16 it has, and the memory; or the GPU."""
    import psutil
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo")
    text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    known = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    flags = known.get("flags", "").split()
    has = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    model = known.get("model name", platform.machine())
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    return f"{model}, {os.cpu_count()} cores, {memory}{', ' + ' and '.join(has) if has else ''}"


def bench_of(asked: dict[str, Any]) -> Any:
    from benchmarks.bench.job import Bench

    return Bench(
        base=Path(asked["base"]),
        classifier=asked["classifier"],
        datapath=asked["datapath"],
        folder=asked["work"],
        pairs=asked["pairs"],
    )


def in_this_process(asked: dict[str, Any]) -> None:
    from benchmarks.bench.apart import do_piece
    from benchmarks.bench.jobs import PIECES, find_jobs
    from benchmarks.bench.measure import die_first, quiet

    die_first()
    with quiet():
        bench = bench_of(asked)
        if asked["piece"]:
            name, side, *numbers = asked["piece"].split(":")
            found = do_piece(PIECES[name], side, ",".join(numbers), bench)
            write_aside(asked["out"], json.dumps(found))
            return
        [job] = find_jobs([asked["job"]], asked["device"] == "cuda")
        write_aside(asked["out"], json.dumps(measured(job, bench)))


def measured(job: Any, bench: Any) -> dict[str, Any]:
    """A job's rows, or why there are none."""
    from dataclasses import replace

    from benchmarks.bench.measure import (
        Refused,
        as_columns,
        check_same,
        interleaved,
        peak_memory,
        ratios,
    )
    from benchmarks.bench.ours import free

    bench = replace(bench, pairs=min(bench.pairs, job.most_pairs or bench.pairs))
    try:
        same = job.same(bench)
        free()
        check_same(same)
    except Refused as refusal:
        return {"status": "refused", "why": str(refusal)}
    sides = {name: make() for name, make in job.sides(bench).items()}
    warm = any(row.measure != "peak" for row in job.rows)  # a peak has no caches to warm up
    taken = interleaved(sides, bench.pairs, say, warm)
    used = {name: as_columns(usages) for name, usages in taken.items()}
    peaks = [usage.peak for usages in taken.values() for usage in usages if usage.peak]
    rows = {}
    for row in job.rows:
        if any(usage.killed for usage in taken[row.ours] + taken[row.other]):
            rows[row.name] = does_not_fit(row, taken[row.ours], taken[row.other])
            continue
        own, other = used[row.ours], used[row.other]
        measure = "wall" if bench_on_gpu() and row.measure == "cpu" else row.measure
        rows[row.name] = {
            "measure": measure,
            "pairs": bench.pairs,
            "ratio": ratios(own[measure], other[measure], row.faster),
            "wall_ratio": ratios(own["wall"], other["wall"], row.faster),
            "ours": medians(own),
            "theirs": medians(other),
            "usage": {"ours": own, "theirs": other},
            "same": [vars(number) for number in same],
            "peak_of_all_sides": max([peak_memory(), *peaks]),
        }
    return {"rows": rows}


def does_not_fit(row: Any, ours: list[Any], theirs: list[Any]) -> dict[str, str]:
    """Of a row of which a side was killed: which, and what the other took."""
    from benchmarks.bench.measure import MEMORY_ENDS

    taken = [
        f"{side} {MEMORY_ENDS}"
        if any(usage.killed for usage in usages)
        else f"{side} takes {max(usage.peak for usage in usages) / 1e9:.2f} GB"
        for side, usages in (("ours", ours), (row.peer, theirs))
    ]
    return {"status": "does not fit", "why": ", ".join(taken)}


def bench_on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def medians(columns: dict[str, list[Any]]) -> dict[str, float]:
    return {
        name: statistics.median(values)
        for name, values in columns.items()
        if all(value is not None for value in values)
    }


def publish(out: Path, name: str) -> None:
    """Copy a run's results to where they are committed, under the name that they have there.

    Raises:
        UserError: there are none.
    """
    if not out.exists():
        raise UserError(f"--publish: {out} is not there; make bench writes it")
    for suffix in (".json", ".md"):
        text = out.with_suffix(suffix).read_text(encoding="utf-8")
        write_aside((PUBLISHED / name).with_suffix(suffix), text)


def write_parts(out: Path) -> None:
    from benchmarks.bench.table import PARTS, with_part

    result = read_json(out)
    for name in PARTS:
        file = REPOSITORY / name
        write_aside(file, with_part(name, file.read_text(encoding="utf-8"), result))


if __name__ == "__main__":
    main()
