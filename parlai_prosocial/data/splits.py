"""Splits that never change: every cut follows a hash of the text itself."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError

FOLDS = 4
DIASAFETY_PARTS = ["gen-train", "judge-train", "valid", "test"]
_BUCKETS = 2 * FOLDS


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def short_digest(text: str) -> str:
    """Return 16 hexadecimal digits that name ``text`` in a table without showing it."""
    return _digest(text)[:16]


def stable_fraction(text: str) -> float:
    """Return a number in [0, 1) that depends on ``text`` alone, evenly spread over texts."""
    return int(_digest(text)[:13], 16) / 16**13


def stable_split(key: str) -> str:
    """Return ``train`` (80 %), ``valid`` (10 %) or ``test`` (10 %), decided by ``key`` alone."""
    fraction = stable_fraction(key)
    if fraction < 0.8:
        return "train"
    return "valid" if fraction < 0.9 else "test"


def diasafety_split(
    rows: Sequence[Mapping], fold: int, cluster_of: Mapping[str, str] | None = None
) -> dict[str, list[Mapping]]:
    """Cut DiaSafety's pooled rows into four parts that share no context (docs/design.md#splits).

    Contexts are equal when :func:`normalise_text` makes them so. Within each category they are
    ordered by the SHA-256 of the normalised context and dealt into eight buckets (rank mod 8).
    Fold k takes buckets 2k and 2k+1 for ``test``, (2k+2) mod 8 for ``valid``, (2k+3) mod 8 for
    ``judge-train`` and the other four for ``gen-train``; the four folds test every context once.

    Contexts of one cluster all go into the bucket that its context of the lowest SHA-256 has by
    that rule, so that the cut with clusters moves only contexts that nearly repeat another one.

    Args:
        rows: each with ``context`` and ``category``; the official splits pooled.
        fold: 0 to 3.
        cluster_of: the cluster of each normalised context that nearly repeats others; contexts
            that are not in it, and all if it is None, stand alone.

    Returns:
        The rows of each of :data:`DIASAFETY_PARTS`, in their given order.

    Raises:
        UserError: the fold is not 0 to 3.
    """
    if fold not in range(FOLDS):
        raise UserError(f"--diasafety-fold {fold}: there are folds 0 to {FOLDS - 1}; give one")
    category_of: dict[str, str] = {}
    for row in rows:
        category_of.setdefault(normalise_text(row["context"]), row["category"])
    contexts_of = defaultdict(list)
    for context, category in category_of.items():
        contexts_of[category].append(context)

    part_of_bucket = ["gen-train"] * _BUCKETS
    part_of_bucket[2 * fold] = part_of_bucket[2 * fold + 1] = "test"
    part_of_bucket[(2 * fold + 2) % _BUCKETS] = "valid"
    part_of_bucket[(2 * fold + 3) % _BUCKETS] = "judge-train"
    bucket_of = {
        context: rank % _BUCKETS
        for contexts in contexts_of.values()
        for rank, context in enumerate(sorted(contexts, key=_digest))
    }
    cluster_of = cluster_of or {}
    leader_of: dict[str, str] = {}
    for context in sorted(bucket_of, key=_digest):
        leader_of.setdefault(cluster_of.get(context, context), context)
    part_of = {
        context: part_of_bucket[bucket_of[leader_of[cluster_of.get(context, context)]]]
        for context in bucket_of
    }

    parts: dict[str, list[Mapping]] = {part: [] for part in DIASAFETY_PARTS}
    for row in rows:
        parts[part_of[normalise_text(row["context"])]].append(row)
    return parts
