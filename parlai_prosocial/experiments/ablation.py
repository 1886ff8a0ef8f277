"""The arms of an ablation in one table, each beside the control."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from parlai_prosocial.evaluation.results.columns import TRAINING_COLUMNS, Column, reply_columns
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import METHOD, Interval, corrected
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.experiments.measurements import RERANK, EvaluationData, pooled_casual
from parlai_prosocial.experiments.ranking import accuracy_difference, accuracy_intervals
from parlai_prosocial.experiments.verdict_counts import pooled_rate
from parlai_prosocial.util.counting import counted

COLUMNS: dict[str, Column] = {
    "arm": {"label": "arm"},
    "bound": {"label": "context-bound, %", "scale": 100},
    "gain": {"label": "minus control, points", "scale": 100},
    "give_away": {"label": "give-away, %", "scale": 100},
    "ppl": {"label": "casual perplexity"},
    "ratio": {"label": "/ control", "digits": 3},
    "unsafe": {"label": "unsafe replies, %", "scale": 100},
    "over_cautious": {"label": "over-cautious casual replies, %", "scale": 100},
    **reply_columns("hedges", "words", "distinct_2", "ended"),
    **TRAINING_COLUMNS,
}


def ablation_table(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    control: str,
    primary: str,
    arms: Collection[str],
) -> dict[str, Any]:
    """All arms over the seeds that have them all, for ``tables.markdown_table``.

    Args:
        data: seed -> what it was scored on.
        results: seed -> row -> measurements of ``measurements.measure_model`` and the like. Rows
            that every seed has are shown.
        control: the row that the others are compared with.
        primary: the row whose difference was named before the run.
        arms: the rows that were trained; the p-values of their differences are corrected together,
            and other rows have none.
    """
    names = [n for n in next(iter(results.values())) if all(n in rows for rows in results.values())]
    contexts: dict[Hashable, list[RankingContext]] = {s: data[s].contexts for s in results}
    ranking = _rankings(results, names)
    gains = {
        name: accuracy_difference(contexts, values, ranking[control])
        for name, values in ranking.items()
        if name != control
    }
    gains = corrected(gains, primary, arms)
    seen = {seed: data[seed] for seed in results}
    rows = []
    for name, values in ranking.items():
        intervals = accuracy_intervals(contexts, values)
        row = {
            "arm": name,
            "bound": intervals["context-bound"],
            "gain": gains.get(name),
            "give_away": intervals["give-away"],
        }
        rows.append(row | _of_model(seen, results, name, control))
        if "reranked_replies" in next(iter(results.values())).get(name, {}):
            best: dict[str, Any] = {"arm": f"{name}, best of {RERANK} by its head"}
            best["unsafe"] = _judged(seen, results, name, "reranked_unsafe")
            rows.append(best | _of_replies(results, name, "reranked_replies"))
    sentinels = [name for name in names if name not in ranking]
    for name in sentinels:
        rows.append({"arm": name, **_judged_columns(seen, results, name)})
    count = sum(len(c) for c in contexts.values())
    return make_table(
        "Arms under one token budget",
        COLUMNS,
        rows,
        [
            f"{counted(len(results), 'seed')}, {counted(count, 'test context')}; {METHOD}. "
            "Context-bound: macro average of three categories; "
            f"chance is 50. Control: {control}. Primary comparison: {primary} minus {control}; the "
            "p-values of the other arms' are corrected by Holm's method. Other rows are there to "
            "compare with and ask nothing.",
            *_judging_notes(results, rows, bool(sentinels)),
            *_machine_notes(results),
        ],
    )


def _machine_notes(results: Mapping[int, Mapping[str, dict[str, Any]]]) -> list[str]:
    """Where the rows were trained and measured; the run that makes the table may be elsewhere."""
    machines: dict[str, list[str]] = {}
    for seed, rows in results.items():
        for name, row in rows.items():
            if "machine" in row:
                machines.setdefault(row["machine"], []).append(f"{name} of seed {seed}")
    if not machines:
        return []
    usual = max(machines, key=lambda machine: len(machines[machine]))
    others = [
        f"{', '.join(rows)}: {machine}" for machine, rows in machines.items() if machine != usual
    ]
    return [f"Trained and measured on {usual}" + "".join(f"; {o}" for o in others) + "."]


def _rankings(
    results: Mapping[int, Mapping[str, dict[str, Any]]], names: list[str]
) -> dict[str, dict[Hashable, np.ndarray]]:
    """Row -> seed -> accuracies; a contrast head's own ranking is a row after its model's."""
    rankings: dict[str, dict[Hashable, np.ndarray]] = {}
    for name in names:
        if any("ranking" not in rows[name] for rows in results.values()):
            continue  # a sentinel, which is judged alone
        rankings[name] = {s: np.array(rows[name]["ranking"]) for s, rows in results.items()}
        if all("ranking_by_head" in rows[name] for rows in results.values()):
            rankings[f"{name}, by its head"] = {
                s: np.array(rows[name]["ranking_by_head"]) for s, rows in results.items()
            }
    return rankings


def _of_model(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    name: str,
    control: str,
) -> dict[str, Any]:
    """The columns that a row has only where it stands for a model."""
    if any("casual_nll" not in rows.get(name, {}) for rows in results.values()):
        return {}
    nll, tokens, dialogues, seeds = pooled_casual(data, results, name)
    columns: dict[str, Any] = {"ppl": perplexity(nll, tokens, dialogues, seeds)}
    if name != control:
        reference = pooled_casual(data, results, control)
        columns["ratio"] = perplexity_ratio((nll, tokens), reference[:2], dialogues, seeds)
    for key, value in (("tokens", "trained_tokens"), ("seconds", "train_seconds")):
        columns[key] = float(np.mean([rows[name].get(value, 0) for rows in results.values()]))
    columns |= _judged_columns(data, results, name)
    return columns | _of_replies(results, name, "replies")


def _judged(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    name: str,
    key: str,
) -> Interval | float | None:
    """The rate over all seeds; None where a seed has not judged that."""
    if any(key not in rows[name] for rows in results.values()):
        return None
    verdicts: list[bool | None] = []
    clusters: list[Hashable] = []
    seeds: list[int] = []
    for seed, rows in results.items():
        own = rows[name][key]["verdicts"]
        casual = [reply.dialogue for reply in data[seed].casual]
        places = casual if key == "over_cautious" else data[seed].sampled
        verdicts += own
        clusters += places[: len(own)]
        seeds += [seed] * len(own)
    return pooled_rate(verdicts, clusters, seeds)


def _judged_columns(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    name: str,
) -> dict[str, Interval | float | None]:
    return {key: _judged(data, results, name, key) for key in ("unsafe", "over_cautious")}


def _judging_notes(
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    rows: Sequence[Mapping[str, Any]],
    has_sentinels: bool,
) -> list[str]:
    counts = [
        row[key]
        for seed_rows in results.values()
        for row in seed_rows.values()
        for key in ("unsafe", "over_cautious", "reranked_unsafe")
        if key in row
    ]
    if not counts:
        return []
    judged, missing = (sum(count[key] for count in counts) for key in ("judged", "missing"))
    notes = [
        f"Unsafe and over-cautious: replies as judged, {judged} in all and {missing} judgements "
        "missing, which count as neither. Wilson intervals where no context is judged twice; else "
        "by bootstrap, over-caution by dialogue, and none where all verdicts are the same."
    ]
    if has_sentinels:
        notes[0] += (
            " The last rows are sentinels: what the judges say of people's replies and of replies "
            "that ignore the context."
        )
    if any(
        row.get("unsafe") is not None and row.get("over_cautious") is None and row.get("ppl")
        for row in rows
    ):
        notes.append(
            "Without a rate of over-caution: an arm whose negatives the same judge has mined."
        )
    return notes


def _of_replies(
    results: Mapping[int, Mapping[str, dict[str, Any]]], name: str, key: str
) -> dict[str, float]:
    replies = [rows[name][key] for rows in results.values()]
    return {
        "hedges": float(np.mean([r["hedges"]["estimate"] for r in replies])),
        "words": float(np.mean([r["mean_words"] for r in replies])),
        "distinct_2": float(np.mean([r["distinct_2"] for r in replies])),
        "ended": float(np.mean([r["ended"]["estimate"] for r in replies])),
    }
