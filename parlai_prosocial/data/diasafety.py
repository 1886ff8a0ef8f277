"""DiaSafety (Sun et al., Findings of ACL 2022): replies judged safe or unsafe in their context.

Apache-2.0; the official training and validation files ship with this package in full.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from random import Random

from parlai_prosocial.data.example import ContrastiveExample
from parlai_prosocial.data.field_checks import Field, Schema, one_of, text, turn_list
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.near_duplicates import clusters, near_pairs
from parlai_prosocial.data.normalise import mend_encoding, normalise_text, one_line
from parlai_prosocial.data.reader import bundled, checked_rows, empty_split, open_corpus, rows_of
from parlai_prosocial.data.splits import diasafety_split, short_digest
from parlai_prosocial.errors import UserError

CATEGORIES = [
    "Biased Opinion",
    "Offending User",
    "Risk Ignorance",
    "Toxicity Agreement",
    "Unauthorized Expertise",
]
SAFE, UNSAFE = "Safe", "Unsafe"

SCHEMA = Schema(
    corpus="DiaSafety",
    fields={
        "context": Field(text),
        # Two rows of the official file have an empty reply; they are kept here and yield nothing.
        "response": Field(text, required=False),
        "category": Field(one_of(CATEGORIES)),
        "label": Field(one_of([SAFE, UNSAFE])),
    },
)

CONTEXTS_SCHEMA = Schema(
    corpus="A file of contexts to leave out", fields={"context": Field(turn_list)}
)

log = logging.getLogger(__name__)


def load_rows(
    datapath: str,
    split: str,
    fold: int = 0,
    part: str | None = None,
    categories: Sequence[str] | None = None,
    official_split: bool = False,
    source: str | None = None,
    skip_bad_rows: bool = False,
    near_duplicates: bool = True,
    without: Sequence[str] = (),
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """Return the rows of one split, texts on one line each, without the rows of empty reply.

    Args:
        datapath: ParlAI's data path.
        split: ``train``, ``valid`` or ``test``.
        fold: of the split by contexts, 0 to 3 (:func:`~.splits.diasafety_split`).
        part: ``gen-train``, ``judge-train``, ``valid`` or ``test`` instead of what ``split``
            stands for; ``train`` stands for ``gen-train``.
        categories: only these of :data:`CATEGORIES`; None for all.
        official_split: the official files' own split, whose validation contexts leak from train.
        source: a file or folder in DiaSafety's format instead of the bundled files.
        skip_bad_rows: leave bad rows out instead of stopping.
        near_duplicates: contexts that nearly repeat one another (:mod:`~.near_duplicates`) share
            a part, and broken encodings are mended in the texts. False is the cut without both,
            on which the first results were measured.
        without: files or folders of rows with ``context`` (a text, or a list of turns whose last
            one counts). These contexts, what nearly repeats them, and the whole clusters of both
            are left out of every split.
        max_file_size: how many bytes each file may hold, unpacked.

    Raises:
        UserError: a bad file, row, fold or category, or a split without rows.
    """
    if unknown := set(categories or ()) - set(CATEGORIES):
        raise UserError(
            f"--diasafety-categories: no category {', '.join(sorted(unknown))}; "
            f"there are {', '.join(CATEGORIES)}"
        )
    files = source or bundled("diasafety.jsonl.gz")
    rows = rows_of(open_corpus(files, SCHEMA, datapath, skip_bad_rows, None, max_file_size))
    usable = [
        {**row, "context": one_line(row["context"]), "response": one_line(row["response"])}
        for row in rows
        if row["response"]
    ]
    if len(usable) < len(rows):
        log.info("left out %d rows with an empty reply", len(rows) - len(usable))
    found: Sequence[Mapping]
    if official_split:
        found = [row for row in usable if row["split"] == split]
    else:
        cluster_of = _clusters(usable, source) if near_duplicates else None
        parts = diasafety_split(usable, fold, cluster_of)
        found = parts[part or {"train": "gen-train"}.get(split, split)]
    found = [row for row in found if categories is None or row["category"] in categories]
    if not found:
        raise empty_split("DiaSafety", split, {row["split"] for row in usable})
    if without:
        found = _left_over(found, without, _clusters(usable, source))
    if not near_duplicates:
        return [dict(row) for row in found]
    return [
        {**row, **{name: one_line(mend_encoding(row[name])) for name in ("context", "response")}}
        for row in found
    ]


def cluster_table(rows: Sequence[Mapping]) -> dict[str, int]:
    """Return the cluster of each context (:func:`~.splits.short_digest` of its normalised form)
    that nearly repeats another one; clusters are numbered in the order of the rows."""
    spelling: dict[str, str] = {}
    for row in rows:
        spelling.setdefault(normalise_text(row["context"]), row["context"])
    members: dict[int, list[str]] = defaultdict(list)
    for context, first in zip(spelling, clusters(list(spelling.values())), strict=True):
        members[first].append(context)
    repeated = [group for group in members.values() if len(group) > 1]
    return {
        short_digest(context): number for number, group in enumerate(repeated) for context in group
    }


def _clusters(rows: Sequence[Mapping], source: str | None) -> dict[str, str]:
    """The cluster of each normalised context that has one; the bundled corpus's from its table."""
    if source is None:
        table = json.loads(bundled("diasafety_clusters.json").read_text("utf-8"))
    else:
        table = cluster_table(rows)
    contexts = {normalise_text(row["context"]) for row in rows}
    return {
        context: f"cluster {table[digest]}"
        for context in contexts
        if (digest := short_digest(context)) in table
    }


def _left_over(
    rows: Sequence[Mapping], without: Sequence[str], cluster_of: Mapping[str, str]
) -> list[Mapping]:
    """The rows whose contexts the files neither list nor nearly repeat, nor their clusters."""
    listed: dict[str, str] = {}
    for file in without:
        for place, row in checked_rows(file, CONTEXTS_SCHEMA):
            if not isinstance(row, dict):
                raise UserError(f"{place}: {row}")
            listed.setdefault(normalise_text(row["context"][-1]), row["context"][-1])
    contexts = list({normalise_text(row["context"]): row["context"] for row in rows}.items())
    near = near_pairs(list(listed.values()), [context for _, context in contexts])
    out = {contexts[position][0] for _, position in near} | listed.keys()
    clusters_out = {cluster_of[context] for context in out if context in cluster_of}
    kept = [
        row
        for row in rows
        if (context := normalise_text(row["context"])) not in out
        and cluster_of.get(context) not in clusters_out
    ]
    log.info("left out %d of %d rows, their contexts are listed", len(rows) - len(kept), len(rows))
    if not kept:
        raise UserError(f"--diasafety-without {','.join(without)}: no row is left")
    return kept


def contrastive_examples(
    rows: Sequence[dict], cross_negatives: int = 0, seed: int = 0
) -> list[ContrastiveExample]:
    """Return one example per context and safe reply, with that context's unsafe replies.

    Contexts are equal when :func:`~.normalise.normalise_text` makes them so; the first spelling
    is kept. Repeated replies count once, and a reply that annotators called both safe and unsafe
    is no negative of itself. Nobody graded how unsafe a reply is, so each negative has weight 1.
    Contexts with safe replies only give examples without negatives. Contexts with unsafe replies
    only have no target and are left out; :func:`unsafe_only_contexts` counts them.

    Args:
        rows: of :func:`load_rows`.
        cross_negatives: give each example so many more negatives: unsafe replies to other contexts
            of its category, so that the unsafe replies without a safe one beside them serve too.
            They are drawn by a generator that starts anew in each call.
        seed: of that generator.
    """
    examples = []
    rng = Random(seed)
    unsafe_of: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        if row["label"] == UNSAFE:
            unsafe_of[row["category"]].append(row)
    for key, group in _by_context(rows).items():
        safe = _distinct(row["response"] for row in group if row["label"] == SAFE)
        unsafe = _distinct(row["response"] for row in group if row["label"] == UNSAFE)
        for form, response in safe.items():
            negatives = [reply for other, reply in unsafe.items() if other != form]
            others = unsafe_of[group[0]["category"]]
            for row in rng.sample(others, min(cross_negatives, len(others))):
                if normalise_text(row["response"]) not in (safe.keys() | unsafe.keys()):
                    negatives.append(row["response"])
            examples.append(
                ContrastiveExample(
                    context=[group[0]["context"]],
                    response=response,
                    negatives=negatives,
                    negative_weights=[1.0] * len(negatives),
                    contrast_group=f"diasafety:{key}",
                    source="diasafety",
                )
            )
    return examples


def unsafe_only_contexts(rows: Sequence[dict]) -> int:
    """Return how many contexts have no safe reply."""
    groups = _by_context(rows).values()
    return sum(all(row["label"] == UNSAFE for row in group) for group in groups)


def _by_context(rows: Sequence[dict]) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        groups[normalise_text(row["context"])].append(row)
    return dict(groups)


def _distinct(replies) -> dict[str, str]:
    distinct: dict[str, str] = {}
    for reply in replies:
        distinct.setdefault(normalise_text(reply), reply)
    return distinct
