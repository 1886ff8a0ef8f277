"""``evaluate`` and ``audit`` from Python; the commands of these names call them and nothing else.

::

    from parlai_prosocial import evaluate

    found = evaluate(
        {"tuned": "runs/step2/model", "base": "zoo:prosocial/smollm2_135m"},
        suites=["safe_but_scary"],
        judges=["words"],
        out="runs/first",
    )
    print(found)
    found.to_pandas()
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from parlai_prosocial.errors import UsageError, UserError, names_arguments
from parlai_prosocial.evaluation.results.folder import Audit, Evaluation
from parlai_prosocial.evaluation.settings import (
    AUDITED,
    FEWEST_GATED,
    MOST_AUDITED,
    REPORT,
    Settings,
)
from parlai_prosocial.util.writer import Writer

if TYPE_CHECKING:  # loads torch and ParlAI, which `--help` need not wait for
    from parlai_prosocial.evaluation.plan import Plan

logger = logging.getLogger(__name__)

Models = Mapping[str, str] | Sequence[str]
Limit = int | str | Mapping[str, int] | Sequence[str] | None

_same_names = names_arguments(
    [*(field.name for field in fields(Settings)), "limit", "out", "report", "fail_if", "min_n"],
    models="model",
    suites="suite",
    judges="judge",
)


@_same_names
def evaluate(
    models: Models,
    suites: str | Sequence[str],
    judges: str | Sequence[str] = (),
    out: str | Path | None = None,
    *,
    limit: Limit = None,
    report: str | Path | None = None,
    command: str | None = None,
    **settings: Any,
) -> Evaluation:
    """Let models reply to suites of contexts, have the replies judged, and compare the models.

    Args:
        models: label -> where it is (checkpoint, folder, hub or zoo name, or
            ``http://HOST:PORT/v1#NAME``), or ``[LABEL=]WHERE`` each. The last one is the reference
            that the others are compared with.
        suites: names, or files of own data; ``all`` stands for the usual ones.
        judges: ``[AXIS=]KIND:WHERE`` each, as ``prosocial evaluate --help`` lists them.
            Over-caution and agreement are judged by rules in any case.
        out: folder of log, summary and all answers. If stopped, the same call resumes, and
            more models, suites or judges ask only for what is new. None keeps nothing.
        limit: most contexts of each suite, evenly spread; or suite -> most, "" for all others; or
            ``[SUITE:]N`` each.
        report: an HTML file.
        command: how the run was made, for the record; the arguments where None.
        **settings: the attributes of :class:`~parlai_prosocial.evaluation.settings.Settings`.

    Returns:
        What was found, already written where ``out`` is given. Look at its ``faults``.

    Raises:
        UserError: something that makes no sense, before anything is asked
            (:class:`~parlai_prosocial.errors.UsageError`), or that fails altogether.
        TypeError: a setting that does not exist.
    """
    command = command or _as_call("evaluate", models, suites, judges, settings | {"limit": limit})
    plan = _planned(models, suites, judges, _limits(limit), settings)
    with _kept(out) as (folder, keeps):
        found = _carried_out(plan, folder, command)
        if report is not None:
            found.write_report(report)
    return found if keeps else replace(found, folder=None)


@_same_names
def audit(
    models: Models,
    suites: str | Sequence[str] = AUDITED,
    judges: str | Sequence[str] = (),
    out: str | Path | None = None,
    *,
    limit: Limit = None,
    report: str | Path | None = None,
    fail_if: str | Sequence[str] = (),
    min_n: int = FEWEST_GATED,
    command: str | None = None,
    **settings: Any,
) -> Audit:
    """Audit models in adversarial and casual contexts: :func:`evaluate`, with a report and gates.

    Args:
        models, suites, judges, command, settings: as for :func:`evaluate`.
        out: folder of all that is written; None: ``runs/audit-LABELS``.
        limit: as for :func:`evaluate`; :data:`MOST_AUDITED` of each suite that it does not name.
        report: an HTML file; None: ``report.html`` in ``out``.
        fail_if: gates (``evaluation/results/gates.py``), for every model but the reference.
        min_n: fewest contexts that a gate may rest on.

    Returns:
        What was found, already written. Look at ``passed``.

    Raises:
        UserError, TypeError: as :func:`evaluate` does;
            :class:`~parlai_prosocial.errors.UsageError` also of a gate that cannot be decided.
    """
    from parlai_prosocial.data.labelled import UNSAFE
    from parlai_prosocial.evaluation.plan import label_models
    from parlai_prosocial.evaluation.results.gates import check_decidable, decide, parse_gate

    command = command or _as_call("audit", models, suites, judges, settings | {"limit": limit})
    try:
        gates = [parse_gate(gate) for gate in _several(fail_if)]
        labels = list(label_models(models))
    except UserError as error:
        raise UsageError(str(error)) from None
    folder = Path(out or Path("runs") / f"audit-{_file_name(labels)}")
    limits = [str(MOST_AUDITED), *_limits(limit)]
    plan = _planned(models, suites, judges, limits, settings)
    counts = {
        suite: dict(Counter(axis for context in contexts for axis in context.axes))
        for suite, contexts in plan.chosen.items()
    }
    judged = {judge.axis for judge in plan.judges}
    try:
        for gate in gates:
            check_decidable(gate, counts, sorted(judged), min_n)
    except UserError as error:
        raise UsageError(str(error)) from None
    if UNSAFE not in judged:
        logger.warning("No --judge of what is unsafe was given, so that axis is not judged.")

    with Writer(folder, "--out"):
        found = _carried_out(plan, folder, command)
    file = Path(report or folder / REPORT)
    result = Audit(found.summary, found.records, folder, found.faults, report=file)
    result.summary["gates"] = []
    try:
        for gate in gates:
            result.summary["gates"] += decide(gate, counts, result.summary, labels[:-1] or labels)
    except UserError as error:  # told when all is written
        result.undecided = str(error)
    result.save(folder)
    result.write_report(file)
    return result


def _carried_out(plan: "Plan", folder: Path, command: str) -> Evaluation:
    """Let the models reply and the judges judge; what is found is written before it is told."""
    started = time.monotonic()
    from parlai_prosocial.engines.engine import open_engine
    from parlai_prosocial.evaluation.answers import Answers, make_records
    from parlai_prosocial.evaluation.axis_judges import judge_records
    from parlai_prosocial.evaluation.records import in_log_order
    from parlai_prosocial.evaluation.results import summary as summaries
    from parlai_prosocial.evaluation.validation.doubts import doubt, quality_by_labels
    from parlai_prosocial.evaluation.validation.labels.entries import (
        corrected_rates,
        judge_kappas,
        label_entries,
    )
    from parlai_prosocial.models.precision import best_device
    from parlai_prosocial.util.environment import environment

    settings = plan.settings
    answers = Answers(folder / "cache", settings.batch_size, settings.max_missing)
    records: dict[str, dict[str, list[dict[str, Any]]]] = {s.name: {} for s in plan.suites}
    engines = []
    for model, where in plan.models.items():
        engine = open_engine(
            where,
            str(settings.datapath),
            settings.bf16,
            concurrency=settings.concurrency,
            engine=settings.engine,
        )
        engines.append({"name": model, "where": where, "engine": engine.name})
        for suite in plan.suites:
            own = replace(plan.decoding, temperature=0.0) if suite.greedy else plan.decoding
            records[suite.name][model] = make_records(
                answers, engine, model, suite.name, plan.chosen[suite.name], own, settings.bf16
            )
        del engine  # before the next one is loaded
    for judge in plan.judges:
        judge_records(answers, judge, records)
    results = summaries.results(records)
    faults = _faults(results, settings.max_missing)
    asked = [] if faults else plan.judges  # a judge that fails is not asked more
    doubts = doubt(answers, asked, plan.chosen)
    by_labels = quality_by_labels(answers, asked, plan.labels)
    doubts["judge_quality"] += by_labels
    summary: dict[str, Any] = {
        "format": 1,
        "command": command,
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
        "labels": [],
        "corrected": corrected_rates(results, by_labels),
        "kappas": judge_kappas(records),
        "differences": summaries.corrected_differences(records),
        "tables": [],
    }
    seconds = time.monotonic() - started
    summary["environment"] = environment(best_device(), settings.bf16, seconds)
    found = Evaluation(summary, in_log_order(records), folder, faults)
    found.save(folder)  # hours of work: whatever goes wrong from here on, they are kept
    summary["labels"] = label_entries(plan.labels, records)
    summary["tables"] = summaries.tables(summary)
    found.save(folder)
    for fault in faults:
        logger.warning("missing: %s", fault)
    return found


def _planned(
    models: Models,
    suites: str | Sequence[str],
    judges: str | Sequence[str],
    limits: Sequence[str],
    settings: Mapping[str, Any],
) -> "Plan":
    from parlai_prosocial.evaluation.plan import make_plan

    try:
        return make_plan(
            models if isinstance(models, Mapping) else _several(models),
            _several(suites),
            _several(judges),
            limits,
            Settings(**settings),
        )
    except UserError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _kept(out: str | Path | None) -> Iterator[tuple[Path, bool]]:
    """The folder of a run, and whether it stays."""
    if out is not None:
        with Writer(Path(out), "--out"):
            yield Path(out), True
        return
    with TemporaryDirectory() as folder:
        yield Path(folder), False


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _limits(limit: Limit) -> list[str]:
    """``[SUITE:]N`` each."""
    if limit is None:
        return []
    if isinstance(limit, Mapping):
        return [f"{suite}:{most}" if suite else str(most) for suite, most in limit.items()]
    return [str(limit)] if isinstance(limit, int | str) else [str(each) for each in limit]


def _as_call(name: str, models: Models, *others: Any) -> str:
    *given, settings = others
    arguments = [repr(value) for value in (models, *given)]
    arguments += [f"{key}={value!r}" for key, value in settings.items()]
    return f"parlai_prosocial.{name}({', '.join(arguments)})"


def _file_name(labels: Sequence[str]) -> str:
    """A folder's name for some models, e.g. ``tuned-base``."""
    return re.sub(r"[^\w.-]+", "-", "-".join(labels)).strip("-.")[-100:]


def _faults(results: list[dict[str, Any]], most: float) -> list[str]:
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
