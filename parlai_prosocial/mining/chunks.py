"""Work on many contexts in chunks, each kept on disk as it ends, so that a killed run resumes."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parlai_prosocial.mining.results import is_whole_chunk, missing_reasons
from parlai_prosocial.util.batches import chunked
from parlai_prosocial.util.journal import Journal

CHUNK = 32
"""Contexts sampled and judged together; a kill loses at most this much work."""


@dataclass
class Worked:
    """What :func:`work_in_chunks` leaves.

    Attributes:
        records: a list for each text.
        seconds: of the work, also before a stop.
        missing: why things are missing, the most frequent reason first.
        journal: to be removed once the output is written.
    """

    records: list[list[dict[str, Any]]]
    seconds: float
    missing: dict[str, int]
    journal: Journal


def work_in_chunks(
    out: Path,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    work: Callable[[list[int]], list[list[dict[str, Any]]]],
    missing: Callable[[], Counter[str]],
    title: str,
) -> Worked:
    """Work on all texts, chunk by chunk; what a run before this one has done is not done again.

    Args:
        out: the output, beside which the journal lies.
        settings: all that the result depends on.
        texts: one for each context; the longest come first.
        work: gives each of some indices of texts its records.
        missing: why things are missing so far, in this process.
        title: of the progress bar.

    Raises:
        UserError: the journal is of a run with other settings.
    """
    chunks = chunked(texts, CHUNK)
    journal = Journal(out, settings, is_whole_chunk("records", chunks))
    with tqdm(total=len(texts), desc=title, unit="context") as bar:
        bar.update(sum(len(chunks[number]) for number in journal.chunks))
        bar.unpause()  # what an earlier start did says nothing about the time left
        for number, chunk in enumerate(chunks):
            if number in journal.chunks:
                continue
            started, missed = time.monotonic(), missing()
            content: dict[str, Any] = {"records": work(chunk)}
            content["seconds"] = time.monotonic() - started
            if found := missing() - missed:
                content["missing"] = found
            journal.add(number, content)
            bar.update(len(chunk))
    records: list[list[dict[str, Any]]] = [[] for _ in texts]
    for number, chunk in enumerate(chunks):
        for i, found in zip(chunk, journal.chunks[number]["records"], strict=True):
            records[i] = found
    seconds = sum(content["seconds"] for content in journal.chunks.values())
    return Worked(records, seconds, missing_reasons(journal), journal)
