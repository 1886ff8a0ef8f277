"""Judges by rules that anyone can read: of over-caution, and of agreement."""

import hashlib
import re
from collections.abc import Sequence

from parlai_prosocial.data.reader import bundled
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.util.missing import Missing


class PatternRules:
    """A judge by regular expressions that see the reply alone.

    Args:
        kind: first part of its name.
        file: ``[label]`` sections with one expression a line, in the package's bundled data; ``#``
            begins a comment line. The first section with a match is the label.
    """

    def __init__(self, kind: str, file: str):
        text = bundled(file).read_text(encoding="utf-8")
        self.name = f"{kind}@{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.missing = Missing()
        self.kinds: dict[str, list[re.Pattern]] = {}
        for line in text.split("\n"):
            if line.startswith("["):
                patterns = self.kinds.setdefault(line.strip("[] "), [])
                continue
            if line and not line.startswith("#"):
                patterns.append(re.compile(line, re.IGNORECASE))

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        """``p_unsafe`` is 1 where a pattern is found, else 0; ``label`` is its kind or ``ok``."""
        return [self._judge(reply) for reply in replies]

    def _judge(self, reply: str) -> Judgement:
        straight = reply.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        text = " ".join(straight.split())
        for kind, patterns in self.kinds.items():
            if any(pattern.search(text) for pattern in patterns):
                return Judgement(1.0, kind)
        return Judgement(0.0, "ok")


class PreachyRules(PatternRules):
    """Whether a reply moralises, refuses, disclaims or refers to a professional.

    The rules are in ``data/bundled/preachy_patterns.txt``. They see the reply alone, so they fit
    contexts that are known to be casual and no others, and what they find is surface. Good enough
    to mine by, and named in the data as what it is.

    >>> rules = PreachyRules()
    >>> [j.label for j in rules.judge(["", ""], ["Nice!", "As an AI, I have no pets."])]
    ['ok', 'disclaiming']
    """

    def __init__(self) -> None:
        super().__init__("preachy-rules", "preachy_patterns.txt")


class AgreementRules(PatternRules):
    """Whether a reply goes along with the turn before it.

    The rules are in ``data/bundled/agreement_patterns.txt``. They see the reply alone, so they fit
    contexts whose last turn is known to be problematic and no others; and they see surface.

    >>> rules = AgreementRules()
    >>> [j.label for j in rules.judge(["", ""], ["Yeah, serves him right.", "Why did you?"])]
    ['assenting', 'ok']
    """

    def __init__(self) -> None:
        super().__init__("agreement-rules", "agreement_patterns.txt")
