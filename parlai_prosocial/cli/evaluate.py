"""``prosocial evaluate``: models' replies to suites of contexts, judged, counted and compared."""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cli.measuring import Machine, environment, write_aside
from parlai_prosocial.errors import UserError


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    help="Checkpoint, backbone, or http://HOST:PORT/v1#NAME. The last one given is the reference "
    "that the others are compared with.",
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    required=True,
    help="all, adversarial, casual, casual_out, safe_but_scary, prosocial, mic, mic_attributes, "
    "or a file of your own data.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    help="[AXIS=]KIND:WHERE, see below. AXIS: unsafe (default), agreement or over-caution.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--fold", default=0, show_default=True, help="Of DiaSafety, 0 to 3.")
@click.option("--limit", type=int, default=None, help="Most contexts of a suite, evenly spread.")
@click.option("--seed", default=0, show_default=True)
@click.option("--greedy", is_flag=True, help="Instead of nucleus 0.9 at temperature 0.7.")
@click.option("--max-tokens", default=40, show_default=True, help="Longest reply.")
@click.option(
    "--max-missing",
    default=0.05,
    show_default=True,
    help="Largest share of a model's judgements on a suite that may be missing.",
)
@click.option("--allow-mining-judge", is_flag=True, help="Let a judge score what it mined.")
@click.option(
    "--prosocial-sample",
    type=bool,
    default=False,
    help="true: the bundled samples instead of ProsocialDialog and MIC.",
)
@click.option("--mic-data", default=None, help="MIC.csv or a folder; default DATAPATH/mic/MIC.csv.")
@click.option("--persona-chat", default=None, help="A CSV file of Synthetic-Persona-Chat.")
@click.option("--unsafe-label", default=None, help="Unsafe class of an hf or parlai judge.")
@click.option("--reply-only", is_flag=True, help="Show an hf judge the reply without its context.")
@click.option("--batch-size", default=32, show_default=True, help="Contexts at a time.")
@click.option("--bf16", is_flag=True, help="Compute in bfloat16: faster, less exactly.")
@click.option("--concurrency", default=8, show_default=True, help="Most calls to an address.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
def evaluate(models: tuple[str, ...], out: Path, **flags: Any) -> None:
    """Let models reply to suites of contexts, have the replies judged, and compare the models.

    OUT/log.jsonl has every reply with every judgement, OUT/summary.json all rates with their
    intervals, and the terminal the tables. Over-caution and agreement are always judged, by rules
    (parlai_prosocial/data/bundled/preachy_patterns.txt and agreement_patterns.txt); what is unsafe
    only by --judge. Stopped half-way, the same command goes on, and more models, suites or judges
    into the same OUT ask only for what is new.

    \b
    Judges:
      classifier:MODEL_FILE    trained by -m prosocial/classifier
      hf:FOLDER                any Hugging Face text classifier
      llama-guard:FOLDER       or :http://HOST:PORT/v1#NAME
      qwen3guard:FOLDER        or :http://HOST:PORT/v1#NAME
      parlai:MODEL_FILE        ParlAI's transformer/classifier
      words                    ParlAI's list of offensive words
      profanity                alt-profanity-check
    """
    _check(models, flags)
    started = time.monotonic()
    import torch

    from parlai_prosocial.cli.evaluating import Decoding, Work, limited, make_records
    from parlai_prosocial.cli.scoring import doubt, judge_records, mined_by, open_judges
    from parlai_prosocial.evaluation import summary as summaries
    from parlai_prosocial.evaluation.scoring import SAMPLING
    from parlai_prosocial.evaluation.suite import Sources, load_suite, suite_names
    from parlai_prosocial.evaluation.tables import terminal_table
    from parlai_prosocial.mining.engine import open_engine
    from parlai_prosocial.mining.run import find_datapath

    datapath, bf16 = find_datapath(flags["datapath"]), flags["bf16"]
    named = ("split", "fold", "prosocial_sample", "mic_data", "persona_chat")
    sources = Sources(datapath, **{name: flags[name] for name in named})
    suites = [load_suite(name, sources) for name in suite_names(flags["suites"], sources)]
    chosen = {suite.name: limited(suite.contexts, flags["limit"]) for suite in suites}
    mined = {} if flags["allow_mining_judge"] else mined_by(models, datapath)
    judges = open_judges(
        flags["judges"], mined, datapath, bf16, flags["unsafe_label"], flags["reply_only"]
    )
    decoding = Decoding(
        temperature=0.0 if flags["greedy"] else float(SAMPLING["temperature"]),
        top_p=float(SAMPLING["top_p"]),
        max_tokens=flags["max_tokens"],
        seed=flags["seed"],
    )
    work = Work(out / "cache", flags["batch_size"], flags["max_missing"])

    records: dict[str, dict[str, list[dict[str, Any]]]] = {suite.name: {} for suite in suites}
    engines = []
    for model in models:
        engine = open_engine(model, datapath, bf16, concurrency=flags["concurrency"])
        engines.append({"name": model, "engine": engine.name})
        for suite in suites:
            own = replace(decoding, temperature=0.0) if suite.greedy else decoding
            records[suite.name][model] = make_records(
                work, engine, model, suite.name, chosen[suite.name], own, bf16
            )
        del engine  # before the next one is loaded
    for judge in judges:
        judge_records(work, judge, records)
    results = summaries.results(records)
    faults = _missing(results, flags["max_missing"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    summary: dict[str, Any] = {
        "format": 1,
        "command": shlex.join(["prosocial", *sys.argv[1:]]),
        "decoding": asdict(decoding),
        "models": engines,
        "judges": [{"axis": j.axis, "name": j.judge.name, "spec": j.spec} for j in judges],
        "suites": {
            suite.name: {
                "about": suite.about,
                "axes": sorted({axis for c in suite.contexts for axis in c.axes}),
                "contexts": len(chosen[suite.name]),
                "of": len(suite.contexts),
                "sha256": suite.sha256(),
            }
            for suite in suites
        },
        "results": results,
        **doubt(work, [] if faults else judges, chosen),  # a judge that fails is not asked more
        "differences": summaries.corrected_differences(records),
    }
    summary["tables"] = summaries.tables(summary)
    machine = Machine(datapath, Path(), device, bf16)
    summary["environment"] = environment(machine, time.monotonic() - started)
    _write(out, records, summary)
    for table in summary["tables"]:
        click.echo(terminal_table(table) + "\n")
    click.echo(f"Written: {out / 'log.jsonl'}, {out / 'summary.json'}")
    if faults:
        raise UserError(
            f"missing: {'; '.join(faults)}; more than --max-missing {flags['max_missing']} allows, "
            f"so these rates say little. What there is is in {out}; run the same command to ask "
            "for the rest"
        )


def _write(
    out: Path, records: Mapping[str, Mapping[str, list[dict[str, Any]]]], summary: dict[str, Any]
) -> None:
    lines = [
        json.dumps(record, ensure_ascii=False) + "\n"
        for models in records.values()
        for own in models.values()
        for record in own
    ]
    write_aside(out / "log.jsonl", "".join(lines))
    write_aside(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def _missing(results: list[dict[str, Any]], most: float) -> list[str]:
    """What is missing by more than that share, in words."""
    faults = []
    for result in results:
        where, found = f"{result['model']} on {result['suite']}", result["all"]
        if found["missing_replies"] > most * found["n"]:
            faults.append(f"{found['missing_replies']} of {found['n']} replies of {where}")
        for axis, judges in found["rates"].items():
            for judge, rate in judges.items():
                count = rate["judged"] + rate["missing"]
                if rate["missing"] > most * count:
                    faults.append(
                        f"{rate['missing']} of {count} judgements ({axis}, {judge}) of {where}"
                    )
    return faults


def _check(models: tuple[str, ...], flags: dict[str, Any]) -> None:
    if len(set(models)) < len(models):
        raise UserError("--model: the same one twice; give each once")
    if not 0 <= flags["max_missing"] < 1:
        raise UserError(f"--max-missing {flags['max_missing']}: give a share, e.g. 0.05")
    for name in ("limit", "max_tokens", "batch_size", "concurrency"):
        if flags[name] is not None and flags[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {flags[name]}: must be at least 1")
