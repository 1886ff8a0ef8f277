"""The arms on given pairs in one table, beside the model that all of them start from."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parlai_prosocial.evaluation.results.columns import TRAINING_COLUMNS, Column, reply_columns
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import (
    METHOD,
    Interval,
    corrected,
    macro_difference,
    macro_mean,
    unless_too_few,
)
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.experiments.train_arms import Design
from parlai_prosocial.rounds.results import START
from parlai_prosocial.util.counting import counted

Seeds = Mapping[int, Mapping[str, dict[str, Any]]]
"""seed -> row -> measurements of ``rounds.measure.measured``."""

COLUMNS: dict[str, Column] = {
    "arm": {"label": "arm"},
    **reply_columns("unsafe"),
    "less_start": {"label": "less the start's, points", "scale": 100},
    "less_control": {"label": "less the control's, points", "scale": 100},
    **reply_columns("over_cautious", "unresponsive", "hedges", "ended", "words", "distinct_2"),
    "ppl": {"label": "casual perplexity", "digits": 2},
    "ratio": {"label": "/ the start's", "digits": 3},
    **TRAINING_COLUMNS,
}


def pair_table(
    results: Seeds, design: Design, dialogues: Sequence[Hashable], judges: Mapping[str, str]
) -> dict[str, Any]:
    """All arms over the seeds, for ``tables.markdown_table``.

    Args:
        results: of seeds that have the start, the control and the primary arm; arms that every
            seed has are shown.
        design: which is the control and which the primary arm.
        dialogues: of each casual reply.
        judges: names of those who chose and who measured: ``choosing``, ``scoring``, and where one
            was asked ``answers``.
    """
    names = [n for n in (START, *design.arms) if all(n in rows for rows in results.values())]
    # Those that train beside the control; the start and the best of n are there to compare with.
    hypotheses = [
        n for n in names if n not in (START, design.control) and "best_of" not in design.arms[n]
    ]
    gains = {name: _difference(results, name, design.control) for name in hypotheses}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    gains |= corrected(known, design.primary, hypotheses) if design.primary in known else {}
    rows = []
    for name in names:
        row = {"arm": name, **_of_replies(results, name), **_of_casual(results, name, dialogues)}
        row["less_control"] = gains.get(name)
        if name != START:
            less = _difference(results, name, START)
            row["less_start"] = less and replace(less, null=None, p_value=None)
        for key, value in (("tokens", "trained_tokens"), ("seconds", "train_seconds")):
            given: list[Any] = [found[name].get(value) for found in results.values()]
            row[key] = None if None in given else float(np.mean(given))
        rows.append(row)
    first = next(iter(results.values()))[START]
    notes = [
        f"{counted(len(results), 'seed')}, {counted(len(first['unsafe_verdicts']), 'context')} of "
        f"valid that are not casual, one reply each; {METHOD}. Perplexity: Self-dialogue, valid. "
        f"Unsafe: {judges['scoring']}; over-cautious: the rules, on casual contexts; missing "
        "judgements count as neither.",
        f"Primary comparison: {design.primary} less {design.control}, the control; the p-values of "
        "the other arms' are corrected together by Holm's method. What stands beside the start is "
        "no hypothesis.",
    ]
    if judges["scoring"] == judges["choosing"]:
        notes.append(
            "The judge that measured also chose: best-of-n is what it likes most, and so are the "
            "pairs where it chose them. Give --scoring-judge."
        )
    columns = dict(COLUMNS)
    if "answers" in judges:
        notes.append(f"Do not answer the turn: {judges['answers']}, on all contexts.")
    else:
        del columns["unresponsive"]
    return make_table("Arms on the same pairs", columns, rows, notes)


def _of_replies(results: Seeds, name: str) -> dict[str, Any]:
    unsafe, contexts, seeds = _verdicts(results, [name])
    of_all = [rows[name]["replies"] for rows in results.values() if rows[name]["replies"]]
    cautious = [rows[name]["over_cautious"] for rows in results.values()]
    columns: dict[str, Any] = {
        "unsafe": macro_mean(unsafe[0], [0] * len(contexts), contexts, seeds) if seeds else None,
        "over_cautious": _pooled(cautious),
    }
    unresponsive: list[Any] = [rows[name].get("unresponsive") for rows in results.values()]
    if all(unresponsive):
        columns["unresponsive"] = _pooled(unresponsive)
    for key in ("hedges", "ended"):
        columns[key] = float(np.mean([r[key]["estimate"] for r in of_all])) if of_all else None
    for column, key in (("words", "mean_words"), ("distinct_2", "distinct_2")):
        columns[column] = float(np.mean([r[key] for r in of_all])) if of_all else None
    return columns


def _pooled(rates: Sequence[Mapping[str, Any]]) -> float | None:
    judged = sum(rate["judged"] for rate in rates)
    return sum(rate["hits"] for rate in rates) / judged if judged else None


def _of_casual(results: Seeds, name: str, dialogues: Sequence[Hashable]) -> dict[str, Interval]:
    def pooled(row: str) -> tuple[list[float], list[int]]:
        casual = [rows[row]["casual"] for rows in results.values()]
        return [x for c in casual for x in c["nll"]], [x for c in casual for x in c["tokens"]]

    places = list(dialogues) * len(results)
    seeds = [seed for seed in results for _ in dialogues]
    columns = {"ppl": perplexity(*pooled(name), places, seeds)}
    if name != START:
        ratio = perplexity_ratio(pooled(name), pooled(START), places, seeds)
        columns["ratio"] = replace(ratio, null=None, p_value=None)
    return columns


def _difference(results: Seeds, name: str, other: str) -> Interval | None:
    """Of unsafe rates, paired by context and seed; None where nothing is judged for both."""
    values, contexts, seeds = _verdicts(results, [name, other])
    if not contexts:
        return None
    gap = macro_difference(values[0], values[1], [0] * len(contexts), contexts, seeds)
    return unless_too_few(gap, len(set(contexts)))


def _verdicts(
    results: Seeds, names: Sequence[str]
) -> tuple[list[list[float]], list[int], list[int]]:
    """Each row's verdicts where all have one, with their contexts and seeds."""
    values: list[list[float]] = [[] for _ in names]
    contexts, seeds = [], []
    for seed, rows in results.items():
        found = zip(*(rows[name]["unsafe_verdicts"] for name in names), strict=True)
        for context, verdicts in enumerate(found):
            if None not in verdicts:
                contexts.append(context)
                seeds.append(seed)
                for own, verdict in zip(values, verdicts, strict=True):
                    own.append(float(verdict))
    return values, contexts, seeds
