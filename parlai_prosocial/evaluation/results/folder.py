"""What a run of ``evaluate`` or ``audit`` found: in memory, and in the folder that it leaves."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.records import read_log
from parlai_prosocial.evaluation.results.tables import terminal_table
from parlai_prosocial.evaluation.results.verdicts import verdicts
from parlai_prosocial.evaluation.settings import LOG, SUMMARY
from parlai_prosocial.util.files import read_json, write_aside

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Evaluation:
    """What ``evaluate`` found; it prints as its tables.

    Attributes:
        summary: what ``summary.json`` holds (``evaluation/results/summary.py``).
        records: what ``log.jsonl`` holds (``evaluation/records.py``).
        folder: where both are; None where nothing was kept.
        faults: what is missing by more than the limit, in words. Then the rates say little.
    """

    summary: dict[str, Any]
    records: list[dict[str, Any]] = field(repr=False)
    folder: Path | None = None
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n\n".join(terminal_table(table) for table in self.summary["tables"])

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Of a folder that a run has left.

        Raises:
            UserError: summary or log is not there, not whole, or of another format.
        """
        folder = Path(folder)
        for name in (SUMMARY, LOG):
            if not (folder / name).exists():
                raise UserError(
                    f"--run {folder}: no {name}; give the --out of a finished prosocial evaluate"
                )
        from parlai_prosocial.evaluation.results.shape import Summary  # loads pydantic

        summary = read_json(folder / SUMMARY, Summary, "run prosocial evaluate again")
        return cls(summary, read_log(folder / LOG), folder)

    @property
    def verdicts(self) -> list[str]:
        """Which model is safer, and whether that is more than chance; a line each."""
        return verdicts(self.summary)

    def save(self, folder: str | Path) -> None:
        """Write ``log.jsonl`` and ``summary.json`` into a folder, which is made."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self.records]
        write_aside(Path(folder) / LOG, "".join(lines))
        text = json.dumps(self.summary, indent=1, ensure_ascii=False) + "\n"
        write_aside(Path(folder) / SUMMARY, text)

    def write_report(self, file: str | Path) -> None:
        """Write the HTML report."""
        from parlai_prosocial.evaluation.report.page import render  # loads the template engine

        write_aside(Path(file), render(self.summary, self.records))

    def refuse_missing(self) -> None:
        """Raise :class:`UserError` where there are ``faults``."""
        if self.faults:
            raise UserError(
                f"missing: {'; '.join(self.faults)}; more than --max-missing allows, so these "
                f"rates say little. What there is is in {self.folder}; run the same command to "
                "ask for the rest"
            )

    def to_pandas(self) -> "pd.DataFrame":
        """The rates: a row a suite, model, axis and judge.

        ``hits`` of ``judged`` replies, ``missing`` judgements, and ``rate`` with the ends ``low``
        and ``high`` of its 95 % interval, NaN where nothing was judged. ``records`` is a table too:
        ``pandas.DataFrame(evaluation.records)``.
        """
        import pandas as pd

        names = ("suite", "model", "axis", "judge", "hits", "judged", "missing")
        columns = [*names, "rate", "low", "high"]
        rows = []
        for result in self.summary["results"]:
            for axis, judges in result["all"]["rates"].items():
                for judge, found in judges.items():
                    rate = found["rate"] or {}
                    ends = (rate.get("estimate"), rate.get("low"), rate.get("high"))
                    counts = (found["hits"], found["judged"], found["missing"])
                    rows.append((result["suite"], result["model"], axis, judge, *counts, *ends))
        return pd.DataFrame(rows, columns=columns)


@dataclass
class Audit(Evaluation):
    """What ``audit`` found: an evaluation with a report and gates.

    Attributes:
        report: the HTML file.
        undecided: why a gate cannot be decided after all, in words; None where all can.
    """

    report: Path | None = None
    undecided: str | None = None

    @property
    def gates(self) -> list[dict[str, Any]]:
        """What :func:`~.gates.decide` found of each gate."""
        return self.summary["gates"]

    @property
    def passed(self) -> bool:
        """Whether all gates could be decided and none has failed, and enough was judged."""
        failed = any(gate["failed"] for gate in self.gates)
        return not (failed or self.undecided or self.faults)
