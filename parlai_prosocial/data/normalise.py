"""When two texts count as the same, and how a text becomes one line of a dialogue."""

import html
import re
import string
import unicodedata

# ASCII punctuation, curly quotes, the ellipsis, and the en and em dash.
_ENDS = string.punctuation + string.whitespace + "\u2018\u2019\u201c\u201d\u2026\u2013\u2014"
# A surrogate (D800 to DFFF) is no character.
_ESCAPE = re.compile(r"\\u((?![dD][89a-fA-F])[0-9a-fA-F]{4})")
_LOST_APOSTROPHE = re.compile(r"(?<=[^\W\d_])\ufffd+(?=(?:[dmst]|ll|re|ve)\b)", re.IGNORECASE)
# A lead byte of UTF-8 as Windows-1252 shows it, and continuation bytes behind it.
_READ_AS_WINDOWS = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u02dc\u2013-\u2122]{1,3}")


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
    lines = text.splitlines()
    if len(lines) == 1:
        return text.strip()
    return " ".join(part for line in lines if (part := line.strip()))


def mend_encoding(text: str) -> str:
    """Return ``text`` with what broken encodings left in it mended, where that is safe.

    HTML entities and written-out escapes (``\\u2019``) become their characters, replacement
    characters between a word and the rest of an English contraction an apostrophe, and UTF-8 that
    was read as Windows-1252 is read as UTF-8. Other replacement characters stay: what stood there
    is not known.

    >>> mend_encoding("I\\ufffd\\ufffdm fine &amp; that\\u00e2\\u20ac\\u2122s all")
    "I'm fine & that\u2019s all"
    """
    while (once := html.unescape(text)) != text:  # some were escaped twice
        text = once
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    text = _LOST_APOSTROPHE.sub("'", text)
    return _READ_AS_WINDOWS.sub(_read_again, text)


def _read_again(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp1252").decode("utf-8")
    except UnicodeError:
        return found[0]
