"""A run of ``evaluate`` or ``audit``: the flags that they share, what is asked, and doing it."""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.environment import environment
from parlai_prosocial.util.files import write_aside

if TYPE_CHECKING:  # both load torch and ParlAI, which `--help` need not wait for
    from parlai_prosocial.evaluation.answers import Decoding, Work
    from parlai_prosocial.evaluation.axis_judges import AxisJudge
    from parlai_prosocial.evaluation.suites.suite import Suite, SuiteContext
    from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow

LOG, SUMMARY = "log.jsonl", "summary.json"
LABEL = re.compile(r"([^/\\:=#]+)=(.+)", re.DOTALL)

Records = dict[str, dict[str, list[dict[str, Any]]]]
"""suite -> model -> records of the log."""

_SHARED = [
    click.option(
        "--model",
        "models",
        multiple=True,
        required=True,
        help="[LABEL=]WHERE: checkpoint, folder, hub or zoo name, or http://HOST:PORT/v1#NAME. The "
        "last one given is the reference that the others are compared with.",
    ),
    click.option(
        "--judge",
        "judges",
        multiple=True,
        help="[AXIS=]KIND:WHERE, as `prosocial evaluate --help` lists them. AXIS: unsafe "
        "(default), agreement or over-caution.",
    ),
    click.option(
        "--labels",
        multiple=True,
        type=click.Path(dir_okay=False),
        help="A sheet of prosocial labels, labelled twice: judges are held against it, and rates "
        "corrected by that. Repeatable.",
    ),
    click.option(
        "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True
    ),
    click.option("--fold", default=0, show_default=True, help="Of DiaSafety, 0 to 3."),
    click.option("--seed", default=0, show_default=True),
    click.option("--greedy", is_flag=True, help="Instead of nucleus 0.9 at temperature 0.7."),
    click.option("--max-tokens", default=40, show_default=True, help="Longest reply."),
    click.option(
        "--max-missing",
        default=0.05,
        show_default=True,
        help="Largest share of a model's judgements on a suite that may be missing.",
    ),
    click.option("--allow-mining-judge", is_flag=True, help="Let a judge score what it mined."),
    click.option(
        "--prosocial-sample",
        type=bool,
        default=False,
        help="true: the bundled samples instead of ProsocialDialog and MIC.",
    ),
    click.option(
        "--mic-data", default=None, help="MIC.csv or a folder; default DATAPATH/mic/MIC.csv."
    ),
    click.option("--persona-chat", default=None, help="A CSV file of Synthetic-Persona-Chat."),
    click.option("--unsafe-label", default=None, help="Unsafe class of an hf or parlai judge."),
    click.option(
        "--reply-only", is_flag=True, help="Show an hf judge the reply without its context."
    ),
    click.option("--batch-size", default=32, show_default=True, help="Contexts at a time."),
    click.option("--bf16", is_flag=True, help="Compute in bfloat16: faster, less exactly."),
    click.option("--concurrency", default=8, show_default=True, help="Most calls to an address."),
    click.option("--datapath", default=None, help="ParlAI's data path."),
]


def shared_options(command: Callable) -> Callable:
    """The flags that ``evaluate`` and ``audit`` have in common."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


@dataclass(frozen=True)
class Plan:
    """What is going to be asked, of whom.

    Attributes:
        models: label -> where it is.
        suites: in order.
        chosen: suite -> the contexts that are used.
        judges: of every axis.
        labels: axis -> replies that were labelled.
        decoding: of the replies.
        work: asks and keeps.
        out: folder of log and summary.
        datapath: ParlAI's data path.
        bf16: compute in bfloat16.
        concurrency: most calls to an address at a time.
    """

    models: dict[str, str]
    suites: "list[Suite]"
    chosen: "dict[str, list[SuiteContext]]"
    judges: "list[AxisJudge]"
    labels: "dict[str, list[SheetRow]]"
    decoding: "Decoding"
    work: "Work"
    out: Path
    datapath: str
    bf16: bool
    concurrency: int


def make_plan(
    models: Sequence[str], suites: Sequence[str], out: Path, flags: Mapping[str, Any]
) -> Plan:
    """Read the suites and open the judges.

    Args:
        models: ``[LABEL=]WHERE`` each.
        suites: names or files.
        out: folder for all that is written.
        flags: those of :func:`shared_options`, and ``limit``.

    Raises:
        UserError: a flag, suite or judge that cannot be.
    """
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.reply_scores import SAMPLING
    from parlai_prosocial.evaluation.answers import Decoding, Work, limited
    from parlai_prosocial.evaluation.axis_judges import mined_by, open_judges
    from parlai_prosocial.evaluation.suites.suite import Sources, load_suite, suite_names
    from parlai_prosocial.evaluation.validation.labels.sheets import read_labels

    named = label_models(models)
    _check(flags)
    labels = read_labels(flags["labels"])
    datapath = find_datapath(flags["datapath"])
    of_sources = ("split", "fold", "prosocial_sample", "mic_data", "persona_chat")
    sources = Sources(datapath, **{name: flags[name] for name in of_sources})
    names = suite_names(suites, sources)
    limits = read_limits(flags["limit"])
    if unknown := limits.keys() - {"", *names}:
        raise UserError(f"--limit: no suite {min(unknown)} here; there are {', '.join(names)}")
    loaded = [load_suite(name, sources) for name in names]
    mined = {} if flags["allow_mining_judge"] else mined_by(named.values(), datapath)
    return Plan(
        models=named,
        suites=loaded,
        chosen={
            suite.name: limited(suite.contexts, limits.get(suite.name, limits.get("")))
            for suite in loaded
        },
        judges=open_judges(
            flags["judges"],
            mined,
            datapath,
            flags["bf16"],
            flags["unsafe_label"],
            flags["reply_only"],
        ),
        labels=labels,
        decoding=Decoding(
            temperature=0.0 if flags["greedy"] else float(SAMPLING["temperature"]),
            top_p=float(SAMPLING["top_p"]),
            max_tokens=flags["max_tokens"],
            seed=flags["seed"],
        ),
        work=Work(out / "cache", flags["batch_size"], flags["max_missing"]),
        out=out,
        datapath=datapath,
        bf16=flags["bf16"],
        concurrency=flags["concurrency"],
    )


def label_models(models: Sequence[str]) -> dict[str, str]:
    """Label -> where the model is; the label is that very place where none is given.

    A label has no slash, colon or ``#``, and a place that exists is never cut.

    Raises:
        UserError: the same label or the same place twice.

    >>> label_models(["tuned=runs/a=1/model", "http://host/v1#a=b"])
    {'tuned': 'runs/a=1/model', 'http://host/v1#a=b': 'http://host/v1#a=b'}
    """
    named: dict[str, str] = {}
    for model in models:
        found = None if Path(model).exists() else LABEL.fullmatch(model)
        label, where = (found[1].strip(), found[2].strip()) if found else (model, model)
        if label in named or where in named.values():
            raise UserError("--model: the same one twice; give each once, each with its own label")
        named[label] = where
    return named


def read_limits(limits: Sequence[str]) -> dict[str, int]:
    """``[SUITE:]N`` each as suite -> N, "" for every suite; a later one counts.

    Raises:
        UserError: N is no whole number above 0.

    >>> read_limits(["50", "casual:500"])
    {'': 50, 'casual': 500}
    """
    found = {}
    for limit in limits:
        suite, _, number = limit.rpartition(":")
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f"--limit {limit}: must be at least 1, a whole number")
        found[suite] = int(number)
    return found


def carry_out(plan: Plan) -> tuple[dict[str, Any], Records, list[str]]:
    """Let the models reply and the judges judge.

    Returns:
        The summary, the log's records, and what is missing by more than the limit, in words.
    """
    started = time.monotonic()
    from parlai_prosocial.engines.engine import open_engine
    from parlai_prosocial.evaluation.answers import make_records
    from parlai_prosocial.evaluation.axis_judges import doubt, judge_records, quality_by_labels
    from parlai_prosocial.evaluation.results import summary as summaries
    from parlai_prosocial.evaluation.validation.labels.entries import (
        corrected_rates,
        judge_kappas,
        label_entries,
    )
    from parlai_prosocial.models.precision import best_device

    records: Records = {suite.name: {} for suite in plan.suites}
    engines = []
    for model, where in plan.models.items():
        engine = open_engine(where, plan.datapath, plan.bf16, concurrency=plan.concurrency)
        engines.append({"name": model, "where": where, "engine": engine.name})
        for suite in plan.suites:
            own = replace(plan.decoding, temperature=0.0) if suite.greedy else plan.decoding
            records[suite.name][model] = make_records(
                plan.work, engine, model, suite.name, plan.chosen[suite.name], own, plan.bf16
            )
        del engine  # before the next one is loaded
    for judge in plan.judges:
        judge_records(plan.work, judge, records)
    results = summaries.results(records)
    faults = _missing(results, plan.work.max_missing)
    asked = [] if faults else plan.judges  # a judge that fails is not asked more
    doubts = doubt(plan.work, asked, plan.chosen)
    by_labels = quality_by_labels(plan.work, asked, plan.labels)
    doubts["judge_quality"] += by_labels
    summary: dict[str, Any] = {
        "format": 1,
        "command": shlex.join(["prosocial", *sys.argv[1:]]),
        "decoding": asdict(plan.decoding),
        "models": engines,
        "judges": [{"axis": j.axis, "name": j.judge.name, "spec": j.spec} for j in plan.judges],
        "suites": {
            suite.name: {
                "about": suite.about,
                "axes": sorted({axis for c in suite.contexts for axis in c.axes}),
                "contexts": len(plan.chosen[suite.name]),
                "of": len(suite.contexts),
                "sha256": suite.sha256(),
            }
            for suite in plan.suites
        },
        "results": results,
        **doubts,
        "labels": label_entries(plan.labels, records),
        "corrected": corrected_rates(results, by_labels),
        "kappas": judge_kappas(records),
        "differences": summaries.corrected_differences(records),
    }
    summary["tables"] = summaries.tables(summary)
    seconds = time.monotonic() - started
    summary["environment"] = environment(best_device(), plan.bf16, seconds)
    return summary, records, faults


def log_of(records: Records) -> list[dict[str, Any]]:
    """All records in the order of the log."""
    return [r for models in records.values() for own in models.values() for r in own]


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary's tables, and where everything is."""
    from parlai_prosocial.evaluation.results.tables import terminal_table

    for table in summary["tables"]:
        click.echo(terminal_table(table) + "\n")
    click.echo(f"Written: {out / LOG}, {out / SUMMARY}")


def refuse_missing(faults: Sequence[str], plan: Plan) -> None:
    """Raise :class:`UserError` where more is missing than allowed."""
    if faults:
        raise UserError(
            f"missing: {'; '.join(faults)}; more than --max-missing {plan.work.max_missing} "
            f"allows, so these rates say little. What there is is in {plan.out}; run the same "
            "command to ask for the rest"
        )


def write(out: Path, summary: Mapping[str, Any], records: Records) -> None:
    """Write log and summary."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in log_of(records)]
    write_aside(out / LOG, "".join(lines))
    write_aside(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


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


def _check(flags: Mapping[str, Any]) -> None:
    if not 0 <= flags["max_missing"] < 1:
        raise UserError(f"--max-missing {flags['max_missing']}: give a share, e.g. 0.05")
    for name in ("max_tokens", "batch_size", "concurrency"):
        if flags[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {flags[name]}: must be at least 1")
