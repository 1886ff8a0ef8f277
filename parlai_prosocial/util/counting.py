"""Counts in a sentence: ``1 row``, ``2 rows``."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(1200, "row"), counted(2, "reply", "replies")
    ('1 row', '1,200 rows', '2 replies')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
