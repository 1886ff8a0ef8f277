"""A judge of over-caution by rules, for mining on casual contexts."""

import hashlib
import re
from collections.abc import Sequence

from parlai_prosocial.data.reader import bundled
from parlai_prosocial.evaluation.judgement import Judgement

PATTERNS_FILE = bundled("preachy_patterns.txt")


class PreachyRules:
    """Whether a reply moralises, refuses, disclaims or refers to a professional.

    The rules are regular expressions in ``data/bundled/preachy_patterns.txt``. They see the reply
    alone, so they fit contexts that are known to be casual and no others, and what they find is
    surface. Good enough to mine by, and named in the data as what it is.

    >>> rules = PreachyRules()
    >>> [j.label for j in rules.judge(["", ""], ["Nice!", "As an AI, I have no pets."])]
    ['ok', 'disclaiming']
    """

    def __init__(self) -> None:
        text = PATTERNS_FILE.read_text(encoding="utf-8")
        self.name = f"preachy-rules@{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.kinds: dict[str, list[re.Pattern]] = {}
        for line in text.splitlines():
            if line.startswith("["):
                patterns = self.kinds.setdefault(line.strip("[] "), [])
                continue
            if line and not line.startswith("#"):
                patterns.append(re.compile(line, re.IGNORECASE))

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        """``p_unsafe`` is 1 for an over-cautious reply, else 0; ``label`` is the kind or ``ok``."""
        return [self._judge(reply) for reply in replies]

    def _judge(self, reply: str) -> Judgement:
        straight = reply.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        text = " ".join(straight.split())
        for kind, patterns in self.kinds.items():
            if any(pattern.search(text) for pattern in patterns):
                return Judgement(1.0, kind)
        return Judgement(0.0, "ok")
