"""When two texts count as the same, and how a text becomes one line of a dialogue."""

import string
import unicodedata

# ASCII punctuation, curly quotes, the ellipsis, and the en and em dash.
_ENDS = string.punctuation + string.whitespace + "\u2018\u2019\u201c\u201d\u2026\u2013\u2014"


def normalise_text(text: str) -> str:
    """Return the form under which contexts are grouped and equal replies are recognised.

    Unicode NFKC, case folded, runs of white space as one space, punctuation stripped from both
    ends. A text that is punctuation only keeps it, so that "?" and "!" stay apart.

    >>> normalise_text("  Well,  that's FINE!! ")
    "well, that's fine"
    >>> normalise_text("?")
    '?'
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_ENDS) or folded


def one_line(text: str) -> str:
    """Return ``text`` with every line break as a space, and without white space at the ends.

    ParlAI separates the turns of a dialogue by line breaks, so a turn must not hold one. The
    wording is not altered.

    >>> one_line(" Hello.\\nAre you there? ")
    'Hello. Are you there?'
    """
    return " ".join(part for line in text.splitlines() if (part := line.strip()))
