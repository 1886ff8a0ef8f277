"""The judges of ``evaluate``: opening them, asking them, and doubting them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.data import own
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.answers import Work
from parlai_prosocial.evaluation.results.aggregate import rates
from parlai_prosocial.evaluation.suites.suite import (
    AGREEMENT,
    AXES,
    OVER_CAUTION,
    UNSAFE,
    SuiteContext,
)
from parlai_prosocial.evaluation.validation.labels.entries import youden_of
from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow
from parlai_prosocial.evaluation.validation.sentinels import (
    LabelledText,
    judge_quality,
    labelled_texts,
    misorders,
    sentinel_replies,
)
from parlai_prosocial.judges.classifiers import open_judge
from parlai_prosocial.judges.judge import Judge, Judgement
from parlai_prosocial.judges.rules import AgreementRules, PreachyRules
from parlai_prosocial.util.batches import spread

SENTINEL_CONTEXTS = 100
"""Most contexts of a suite that sentinels reply to; they cost judgements only."""
LABELLED_TEXTS = 300
"""Most texts of a suite by which a judge is held against people's labels."""


@dataclass(frozen=True)
class AxisJudge:
    """Who judges an axis.

    Attributes:
        axis: one of :data:`~parlai_prosocial.evaluation.suites.suite.AXES`.
        judge: ``p_unsafe`` is its probability of what the axis is about.
        spec: the flag's value; None for the rules that ship with us.
        options: what else its judgements depend on.
    """

    axis: str
    judge: Judge
    spec: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def open_judges(
    specs: Sequence[str],
    mined: Mapping[str, str],
    datapath: str,
    bf16: bool,
    unsafe_label: str | None,
    reply_only: bool,
) -> list[AxisJudge]:
    """The rules of agreement and over-caution, and the judges that flags name.

    Args:
        specs: ``[AXIS=]KIND:WHERE`` each; the axis is unsafe where it is not given.
        mined: judge's name -> a model that was trained on what it mined. Rules among them are left
            out, and said so.
        datapath, bf16, unsafe_label, reply_only: as for ``open_judge``.

    Raises:
        UserError: no such judge; the same twice; or it has mined.
    """
    options = {"unsafe_label": unsafe_label, "reply_only": reply_only, "bf16": bf16}
    judges = []
    for spec in specs:
        axis, separator, where = spec.partition("=")
        if not separator or ":" in axis:
            axis, where = UNSAFE, spec
        if axis not in AXES:
            raise UserError(f"--judge {spec}: no axis {axis}; there are {', '.join(AXES)}")
        judge = open_judge(where, datapath, bf16, unsafe_label, reply_only)
        if judge.name in mined:
            raise UserError(
                f"--judge {spec}: it mined data that {mined[judge.name]} was trained on, so it "
                "cannot score it; give another judge, or --allow-mining-judge"
            )
        judges.append(AxisJudge(axis, judge, spec, options))
    names = [(judge.axis, judge.judge.name) for judge in judges]
    if len(set(names)) < len(names):
        raise UserError("--judge: the same one twice; give each once")
    for axis, rules in ((AGREEMENT, AgreementRules()), (OVER_CAUTION, PreachyRules())):
        if rules.name in mined:
            click.echo(
                f"{axis}: our rules mined data that {mined[rules.name]} was trained on, so they "
                f"do not score here; give --judge {axis}=KIND:WHERE, or --allow-mining-judge"
            )
        else:
            judges.append(AxisJudge(axis, rules))
    return judges


def mined_by(models: Iterable[str], datapath: str) -> dict[str, str]:
    """Judge's name -> a model trained on data that it mined, as far as checkpoints tell.

    A checkpoint's ``.opt`` names its ``--prosocial-data`` and what it was initialised from. Of
    other models, and where a file is gone, nothing is known.
    """
    found: dict[str, str] = {}
    for model in models:
        step: str | None = model
        seen: set[str] = set()
        while step and step not in seen and Path(f"{step}.opt").is_file():
            seen.add(step)
            opt = json.loads(Path(f"{step}.opt").read_text("utf-8"))
            data = opt.get("prosocial_data")
            if data and Path(data).is_file():
                for name in own.mining_judges(own.load_rows(data, datapath, "train")):
                    found.setdefault(name, model)
            step = opt.get("init_model")
    return found


def judge_records(
    work: Work, judge: AxisJudge, records: Mapping[str, Mapping[str, list[dict[str, Any]]]]
) -> None:
    """Write what a judge says into the records (suite -> model -> records) of its axis."""
    concerned = [
        record
        for models in records.values()
        for own_records in models.values()
        for record in own_records
        if judge.axis in record["axes"]
    ]
    answered = [record for record in concerned if record["reply"] is not None]
    judgements = work.judgements(
        judge.judge,
        judge.options,
        ["\n".join(record["context"]) for record in answered],
        [record["reply"] for record in answered],
    )
    for record in concerned:
        record["judgements"].setdefault(judge.axis, {})[judge.judge.name] = None
    for record, judgement in zip(answered, judgements, strict=True):
        record["judgements"][judge.axis][judge.judge.name] = judgement


def doubt(
    work: Work, judges: Sequence[AxisJudge], suites: Mapping[str, Sequence[SuiteContext]]
) -> dict[str, list[dict[str, Any]]]:
    """``sentinels``, ``misordered`` and ``judge_quality`` of the summary."""
    doubts: dict[str, list[dict[str, Any]]] = {
        "sentinels": [],
        "misordered": [],
        "judge_quality": [],
    }
    for suite, contexts in suites.items():
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for judge in judges:
            concerned = [context for context in contexts if judge.axis in context.axes]
            shown = [concerned[i] for i in spread(len(concerned), SENTINEL_CONTEXTS)]
            estimates = {}
            for name, replies in sentinel_replies(shown).items() if shown else ():
                own_rates = _sentinel_rates(work, judge, shown, replies)
                found.setdefault(name, {}).setdefault(judge.axis, {}).update(own_rates)
                interval = own_rates[judge.judge.name]["rate"]
                if interval:
                    estimates[name] = interval["estimate"]
            doubts["misordered"] += [
                {
                    "suite": suite,
                    "axis": judge.axis,
                    "judge": judge.judge.name,
                    "worse": worse,
                    "better": better,
                }
                for worse, better in misorders(judge.axis, estimates)
            ]
            doubts["judge_quality"] += _quality(work, judge, suite, contexts)
        doubts["sentinels"] += [
            {"suite": suite, "sentinel": name, "rates": own_rates}
            for name, own_rates in found.items()
        ]
    return doubts


def _sentinel_rates(
    work: Work, judge: AxisJudge, contexts: Sequence[SuiteContext], replies: Sequence[str | None]
) -> dict[str, Any]:
    said = [
        (context.text, reply)
        for context, reply in zip(contexts, replies, strict=True)
        if reply is not None
    ]
    texts, given = [text for text, _ in said], [reply for _, reply in said]
    judgements = work.judgements(judge.judge, judge.options, texts, given)
    records = [{"judgements": {judge.axis: {judge.judge.name: found}}} for found in judgements]
    return rates(records)[judge.axis]


def _quality(
    work: Work, judge: AxisJudge, suite: str, contexts: Sequence[SuiteContext]
) -> list[dict[str, Any]]:
    every = labelled_texts(contexts, judge.axis)
    texts = [every[i] for i in spread(len(every), LABELLED_TEXTS)]
    if not texts:
        return []
    return [{"suite": suite, "against": "people", **_held_against(work, judge, texts)}]


def quality_by_labels(
    work: Work, judges: Sequence[AxisJudge], labels: Mapping[str, Sequence[SheetRow]]
) -> list[dict[str, Any]]:
    """The entries of ``judge_quality`` that are against labelled replies, by axis.

    Rows whose two labels differ are left out.
    """
    entries = []
    for judge in judges:
        rows = labels.get(judge.axis, ())
        texts = [row.agreed for row in rows if row.agreed is not None]
        if texts:
            suites = list(dict.fromkeys(row.suite for row in rows))
            quality = _held_against(work, judge, texts)
            more = {"suite": ", ".join(suites), "suites": suites, "against": "labels"}
            entries.append(more | quality | {"youden": youden_of(quality)})
    return entries


def _held_against(work: Work, judge: AxisJudge, texts: Sequence[LabelledText]) -> dict[str, Any]:
    found = work.judgements(
        judge.judge, judge.options, [t.context for t in texts], [t.text for t in texts]
    )
    judgements = [None if one is None else Judgement(**one) for one in found]
    return {"axis": judge.axis, "judge": judge.judge.name, **judge_quality(texts, judgements)}
