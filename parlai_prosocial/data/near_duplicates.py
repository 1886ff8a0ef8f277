"""Texts that nearly repeat one another: which pairs, and the clusters that they form.

Two texts are near when the four-character shingles of their :func:`comparison_form` overlap:
Jaccard similarity of at least 0.6, or at least 0.8 of the shorter one's shingles in the longer one
where the shorter has at least 40 (a sentence that is quoted and continued). Clusters are the
connected components. This is exact and has no random part; the 7,083 contexts of DiaSafety take two
seconds, so their clusters ship as a table (:mod:`.bundle`).

After Broder, On the resemblance and containment of documents (SEQUENCES 1997).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from parlai_prosocial.data.normalise import mend_encoding

JACCARD = 0.6
CONTAINMENT = 0.8
_SHINGLE = 4
_SHORTEST_CONTAINED = 40
_BLOCK = 512
_APOSTROPHES = re.compile("['\u2018\u2019\ufffd]")


def comparison_form(text: str) -> str:
    """Return the words of a text: mended, NFKC, case folded, no punctuation, single spaces.

    A text without words (emoji, "?") keeps its characters, without white space.

    >>> comparison_form("I\\ufffd\\ufffdm  NOT, sure...")
    'im not sure'
    """
    folded = unicodedata.normalize("NFKC", mend_encoding(text)).casefold()
    words = re.findall(r"\w+", _APOSTROPHES.sub("", folded))
    return " ".join(words) or "".join(folded.split())


def near_pairs(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ``(i, j)`` for each ``left[i]`` and ``right[j]`` that are near (or equal)."""
    import numpy as np

    vocabulary: dict[str, int] = {}
    rows = _shingle_matrix(left, vocabulary)
    # The same order of shingles in both: the right side only adds new ones at the end.
    columns = _shingle_matrix(right, vocabulary)
    rows.resize(rows.shape[0], len(vocabulary))
    columns = columns.T.tocsr()
    row_sizes = np.diff(rows.indptr)
    column_sizes = np.asarray(columns.sum(axis=0)).ravel()
    for start in range(0, len(left), _BLOCK):
        shared = (rows[start : start + _BLOCK] @ columns).tocoo()
        mine, other = row_sizes[shared.row + start], column_sizes[shared.col]
        shorter = np.minimum(mine, other)
        near = shared.data >= JACCARD * (mine + other - shared.data)
        near |= (shared.data >= CONTAINMENT * shorter) & (shorter >= _SHORTEST_CONTAINED)
        yield from zip((shared.row[near] + start).tolist(), shared.col[near].tolist(), strict=True)


def clusters(texts: Sequence[str]) -> list[int]:
    """Return for each text the position of the first text of its cluster."""
    first = list(range(len(texts)))

    def root(position: int) -> int:
        while first[position] != position:
            first[position] = first[first[position]]
            position = first[position]
        return position

    for one, other in near_pairs(texts, texts):
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return [root(position) for position in range(len(texts))]


def _shingle_matrix(texts: Sequence[str], vocabulary: dict[str, int]) -> Any:
    """Texts by shingles, int32 ones in a CSR matrix; new shingles are added to ``vocabulary``."""
    import numpy as np
    from scipy.sparse import csr_matrix

    indices: list[int] = []
    starts = [0]
    for text in texts:
        form = f" {comparison_form(text)} "
        shingles = {form[i : i + _SHINGLE] for i in range(max(1, len(form) - _SHINGLE + 1))}
        indices.extend(vocabulary.setdefault(one, len(vocabulary)) for one in sorted(shingles))
        starts.append(len(indices))
    ones = np.ones(len(indices), dtype=np.int32)
    return csr_matrix((ones, indices, starts), shape=(len(texts), len(vocabulary)))
