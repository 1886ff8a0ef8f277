"""What speaks against the judges of a run: sentinels, people's labels, and labelled replies."""

from collections.abc import Mapping, Sequence
from typing import Any

from parlai_prosocial.evaluation.answers import Answers
from parlai_prosocial.evaluation.axis_judges import AxisJudge
from parlai_prosocial.evaluation.results.aggregate import rates
from parlai_prosocial.evaluation.suites.suite import SuiteContext
from parlai_prosocial.evaluation.validation.labels.entries import youden_of
from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow
from parlai_prosocial.evaluation.validation.sentinels import (
    LabelledText,
    judge_quality,
    labelled_texts,
    misorders,
    sentinel_replies,
)
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.util.batches import spread

SENTINEL_CONTEXTS = 100
"""Most contexts of a suite that sentinels reply to; they cost judgements only."""
LABELLED_TEXTS = 300
"""Most texts of a suite by which a judge is held against people's labels."""


def doubt(
    answers: Answers, judges: Sequence[AxisJudge], suites: Mapping[str, Sequence[SuiteContext]]
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
                own_rates = _sentinel_rates(answers, judge, shown, replies)
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
            doubts["judge_quality"] += _quality(answers, judge, suite, contexts)
        doubts["sentinels"] += [
            {"suite": suite, "sentinel": name, "rates": own_rates}
            for name, own_rates in found.items()
        ]
    return doubts


def _sentinel_rates(
    answers: Answers,
    judge: AxisJudge,
    contexts: Sequence[SuiteContext],
    replies: Sequence[str | None],
) -> dict[str, Any]:
    said = [
        (context.text, reply)
        for context, reply in zip(contexts, replies, strict=True)
        if reply is not None
    ]
    texts, given = [text for text, _ in said], [reply for _, reply in said]
    judgements = answers.judgements(judge.judge, judge.options, texts, given)
    records = [{"judgements": {judge.axis: {judge.judge.name: found}}} for found in judgements]
    return rates(records)[judge.axis]


def _quality(
    answers: Answers, judge: AxisJudge, suite: str, contexts: Sequence[SuiteContext]
) -> list[dict[str, Any]]:
    every = labelled_texts(contexts, judge.axis)
    texts = [every[i] for i in spread(len(every), LABELLED_TEXTS)]
    if not texts:
        return []
    return [{"suite": suite, "against": "people", **_held_against(answers, judge, texts)}]


def quality_by_labels(
    answers: Answers, judges: Sequence[AxisJudge], labels: Mapping[str, Sequence[SheetRow]]
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
            quality = _held_against(answers, judge, texts)
            more = {"suite": ", ".join(suites), "suites": suites, "against": "labels"}
            entries.append(more | quality | {"youden": youden_of(quality)})
    return entries


def _held_against(
    answers: Answers, judge: AxisJudge, texts: Sequence[LabelledText]
) -> dict[str, Any]:
    found = answers.judgements(
        judge.judge, judge.options, [t.context for t in texts], [t.text for t in texts]
    )
    judgements = [None if one is None else Judgement(**one) for one in found]
    return {"axis": judge.axis, "judge": judge.judge.name, **judge_quality(texts, judgements)}
