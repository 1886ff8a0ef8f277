"""What was measured of a model, as the files of our commands say it, with replies that failed."""

import hashlib
from pathlib import Path
from typing import Any

from parlai_prosocial.util.files import parsed_json, read_bytes

MOST_SAMPLES = 12
ROW_KEYS = ("row", "arm")
"""Columns of our tables that name a model."""


def read_results(file: Path, row: str) -> dict[str, Any]:
    """What was measured: ``tables``, ``environment``, ``row``, and ``samples`` of what fails.

    Args:
        file: ``results.json`` of ``prosocial compare`` or ``ablate``, ``classifier.json`` of
            ``bench_classifier.py``, or ``summary.json`` of ``prosocial evaluate``, whose
            ``log.jsonl`` beside it has the replies.
        row: the model's name in tables and log: of a row, or of a column.

    Raises:
        UserError: not such a file.
    """
    from parlai_prosocial.evaluation.results.shape import Measured  # loads pydantic

    mend = (
        "give the results.json of prosocial compare or ablate, the summary.json of prosocial "
        "evaluate, or a classifier.json of bench_classifier.py"
    )
    content = parsed_json(read_bytes(file, mend), Measured, f"--results {file}", mend)
    log = file.with_name("log.jsonl")
    samples = _sample_failures(log, row) if log.is_file() else []
    return content | {"row": row, "samples": samples}


def _sample_failures(log: Path, row: str) -> list[dict[str, str]]:
    """Replies of one model that a judge calls unfit: by lot, the same ones every time."""
    from parlai_prosocial.evaluation.records import is_unfit, read_log

    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for record in read_log(log):
        if record["model"] != row:
            continue
        for axis, judges in record["judgements"].items():
            unfit = [judge for judge in judges if is_unfit(record, axis, judge)]
            if unfit:
                lot = hashlib.sha256(f"{record['suite']} {record['id']}".encode()).hexdigest()
                sample = {
                    "context": "\n".join(record["context"]),
                    "reply": record["reply"],
                    "judgement": f"{axis} by {', '.join(unfit)}; suite {record['suite']}",
                }
                found.setdefault((record["suite"], axis), []).append((lot, sample))
    each = max(1, MOST_SAMPLES // max(1, len(found)))
    chosen = [
        sample
        for group in found.values()
        for _, sample in sorted(group, key=lambda pair: pair[0])[:each]
    ]
    return chosen[:MOST_SAMPLES]
