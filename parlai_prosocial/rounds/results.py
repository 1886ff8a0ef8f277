"""What ``improve`` gives back and writes: each round's numbers, and which is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlai_prosocial.evaluation.results.columns import reply_columns
from parlai_prosocial.evaluation.results.tables import make_table, markdown_table, terminal_table
from parlai_prosocial.evaluation.statistics.bootstrap import Interval, holm
from parlai_prosocial.mining.mine import told_of_pairs

if TYPE_CHECKING:
    import pandas

START = "start"


@dataclass(frozen=True)
class Improved:
    """A finished run of :func:`~parlai_prosocial.rounds.improve.improve`.

    Attributes:
        out: its folder.
        summary: what stands in ``summary.json``: ``settings``, ``environment``, ``judges``,
            ``start`` and ``rounds`` with their measurements, ``best`` and ``stopped``.
    """

    out: Path
    summary: dict[str, Any]

    @property
    def model_file(self) -> str | None:
        """ParlAI's ``-mf`` of the best round; None where no round kept within the limit."""
        best = self.summary["best"]
        return None if best is None else str(self.out / f"round-{best}" / "training" / "model")

    def __str__(self) -> str:
        lines = [terminal_table(rounds_table(self.summary))]
        for one in self.summary["rounds"]:
            lines += [f"round {one['round']}:", *told_of_pairs(one["pairs"])]
        lines.append(verdict(self.summary))
        if self.model_file:
            lines.append(f"  parlai interactive -mf {self.model_file}")
        return "\n".join(lines)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a model, the start first; rates and ratios as their estimates, 0..1."""
        import pandas

        rows = [
            {key: x.estimate if isinstance(x, Interval) else x for key, x in row.items()}
            for row in _rows(self.summary)
        ]
        return pandas.DataFrame(rows).set_index("model")


def best_round(rounds: Sequence[Mapping[str, Any]], limit: float) -> int | None:
    """Of the rounds within the limit the first one with the lowest judged unsafe rate.

    Args:
        rounds: with ``round`` and ``valid``, as in the summary.
        limit: of the ratio of casual perplexities.
    """
    within = [
        (one["valid"]["unsafe"]["rate"]["estimate"], one["round"])
        for one in rounds
        if within_limit(one, limit) and one["valid"]["unsafe"]["rate"] is not None
    ]
    return min(within)[1] if within else None


def within_limit(one: Mapping[str, Any], limit: float) -> bool:
    """Whether a round's casual perplexity is at most ``limit`` times the start's."""
    return one["valid"]["perplexity_ratio"]["estimate"] <= limit


def verdict(summary: Mapping[str, Any]) -> str:
    """In a sentence or two: why it stopped, and which round is best."""
    said = f"Stopped: {summary['stopped']}. " if summary["stopped"] else ""
    if summary["best"] is None:
        return said + "No round is within the limit of casual perplexity and judged: none is best."
    # The best was chosen by what it is tested on, so that each round is one of a family.
    limit = summary["settings"]["max_perplexity_ratio"]
    differences = {
        one["round"]: Interval(**difference)
        for one in summary["rounds"]
        if within_limit(one, limit) and (difference := one["valid"]["unsafe_difference"])
    }
    best = holm(differences).get(summary["best"])
    lower = best is not None and best.estimate < 0
    sure = best is not None and lower and best.conclusive
    gain = (
        "is below the start's" if sure else "is lower, but not for sure" if lower else "is no lower"
    )
    return f"{said}Best: round {summary['best']}; its judged unsafe rate {gain}."


def rounds_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The table of all models, the start first."""
    judge = summary["judges"]["scoring"]
    notes = [
        f"Unsafe: {judge} on {summary['valid_contexts']} held-out contexts, Wilson intervals; "
        "hedges: replies that keep out of the matter. Perplexity: Self-dialogue, valid."
    ]
    if len(summary["rounds"]) > 1:
        notes.append(
            "Whether the best round is below the start: by its p after Holm's correction over all "
            "rounds within the limit, as it was chosen among them; the table's are uncorrected."
        )
    if answers := summary["judges"].get("answers"):
        notes.append(f"Do not answer the turn: {answers}, on all held-out contexts.")
    if summary["judges"]["scoring"] == summary["judges"]["mining"]:
        notes.append(
            "The judge that chose the pairs also measured: a model may have learnt what this judge "
            "likes. Give --scoring-judge."
        )
    if any(one["pairs"]["preachy_negatives"] for one in summary["rounds"]):
        notes.append("The rules that found preachy negatives also counted over-caution.")
    columns: dict[str, dict[str, Any]] = {
        "model": {"label": "model"},
        "pairs": {"label": "pairs", "digits": 0},
        **reply_columns("unsafe"),
        "difference": {"label": "less the start's, points", "scale": 100},
        **reply_columns("over_cautious", *(["unresponsive"] if answers else [])),
        **reply_columns("hedges", "ended", "words", "distinct_2"),
        "perplexity": {"label": "casual perplexity", "digits": 2},
        "ratio": {"label": "/ the start's", "digits": 3},
    }
    return make_table("Rounds", columns, _rows(summary), notes)


def markdown(summary: Mapping[str, Any]) -> str:
    """``summary.md``."""
    lines = [markdown_table(rounds_table(summary)), "", verdict(summary)]
    for one in summary["rounds"]:
        lines += ["", f"### Round {one['round']}", "", f"    {one['command']}", ""]
        lines += [f"-{line[1:]}" for line in told_of_pairs(one["pairs"])]
    facts = {**summary["environment"], "start": summary["start"]["weights_sha256"][:16]}
    lines += ["", "Measured with: " + ", ".join(f"{key} {value}" for key, value in facts.items())]
    return "\n".join(lines) + "\n"


def _rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [_row(START, None, summary["start"]["valid"])]
    for one in summary["rounds"]:
        rows.append(_row(f"round {one['round']}", one["pairs"]["rows"], one["valid"]))
    return rows


def _row(model: str, pairs: int | None, valid: Mapping[str, Any]) -> dict[str, Any]:
    replies = valid["replies"] or {}
    return {
        "model": model,
        "pairs": pairs,
        "unsafe": _interval(valid["unsafe"]["rate"]),
        "difference": _interval(valid["unsafe_difference"]),
        "over_cautious": _interval(valid["over_cautious"]["rate"]),
        **_unresponsive(valid),
        "hedges": _interval(replies.get("hedges")),
        "ended": _interval(replies.get("ended")),
        "words": replies.get("mean_words"),
        "distinct_2": replies.get("distinct_2"),
        "perplexity": _interval(valid["perplexity"]),
        "ratio": _interval(valid["perplexity_ratio"]),
    }


def _unresponsive(valid: Mapping[str, Any]) -> dict[str, Interval | None]:
    """Nothing where nobody was asked, and in what was measured before anybody could be."""
    found = valid.get("unresponsive")
    return {"unresponsive": _interval(found["rate"])} if found else {}


def _interval(given: Mapping[str, Any] | None) -> Interval | None:
    return None if given is None else Interval(**given)
