"""How a long list is cut: a part of it evenly spread, and chunks of like length."""

from collections.abc import Sequence


def spread(count: int, limit: int | None) -> list[int]:
    """``limit`` indices below ``count``, evenly apart; all of them if there are no more.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def chunked(texts: Sequence[str], size: int) -> list[list[int]]:
    """Indices of texts in chunks of like length, the longest first.

    The chunks depend on the texts alone, so a resumed run has the same ones. Longest first:
    memory runs out at once or never, and the time left is not underestimated.

    >>> chunked(["a", "ccc", "bb"], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def budgeted(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices by size, the smallest first, in batches of at most ``budget`` together.

    One that is larger by itself goes alone.

    >>> budgeted([5, 1, 9, 2], 6)
    [[1, 3], [0], [2]]
    """
    batches: list[list[int]] = []
    total = budget + 1
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if total + sizes[i] > budget:
            batches.append([])
            total = 0
        batches[-1].append(i)
        total += sizes[i]
    return batches
