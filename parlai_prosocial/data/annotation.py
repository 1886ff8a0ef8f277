"""A safety label and rules of thumb as Canary writes them (Kim et al. 2022)."""

import re
from dataclasses import dataclass

from parlai_prosocial.data.example import CASUAL, ROT_PREFIX, SAFETY_LABELS
from parlai_prosocial.data.normalise import normalise_text, one_line

# "__needs_caution__", "Needs caution:", "[needs_caution]"; the longer name before the one in it.
_NAMES = sorted((label.strip("_") for label in SAFETY_LABELS), key=len, reverse=True)
_LABEL = re.compile(
    r"\W*_*(" + "|".join(name.replace("_", "[ _]") for name in _NAMES) + r")(?![a-z])",
    re.IGNORECASE,
)
_ROT = re.compile(re.escape(ROT_PREFIX.strip()), re.IGNORECASE)


@dataclass(frozen=True)
class Annotation:
    """A turn's safety label and, unless that is casual, its rules of thumb."""

    safety_label: str
    rots: list[str]


def parse_annotation(answer: str) -> Annotation | None:
    """Read a label and rules of thumb; None where no label stands at the beginning.

    Rules of thumb are told apart by their prefix, on lines of their own or not. Those of a casual
    turn are dropped, repeated ones count once.

    >>> parse_annotation("__needs_caution__\\nrule of thumb: Don't lie.\\nrule of thumb: don't lie")
    Annotation(safety_label='__needs_caution__', rots=["Don't lie."])
    >>> parse_annotation("Casual. rule of thumb: Be nice.")
    Annotation(safety_label='__casual__', rots=[])
    >>> parse_annotation("It's wrong to lie.") is None
    True
    """
    found = _LABEL.match(answer)
    if found is None:
        return None
    label = f"__{found[1].lower().replace(' ', '_')}__"
    if label == CASUAL:
        return Annotation(label, [])
    rots: dict[str, str] = {}
    for part in _ROT.split(answer[found.end() :])[1:]:
        rot = one_line(part.split("\n")[0])
        if normalise_text(rot):
            rots.setdefault(normalise_text(rot), rot)
    return Annotation(label, list(rots.values()))
