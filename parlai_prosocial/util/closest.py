"""What somebody may have meant who typed a name that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], before: str = "; ") -> str:
    """A hint to end an error with; empty where no known name is near.

    >>> did_you_mean("casaul", ["casual", "mic"]), did_you_mean("x", ["casual"])
    ('; did you mean casual?', '')
    """
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"{before}did you mean {by_lower[near[0]]}?" if near else ""
