"""The contrastive example that every corpus is turned into, and the names all corpora share."""

from collections.abc import Iterable
from dataclasses import dataclass, field

ROT_PREFIX = "rule of thumb: "
SYSTEM_LINE_PREFIXES = ("your persona:", "partner's persona:", "__knowledge__", ROT_PREFIX)
"""How lines of a ParlAI ``text`` begin that are about the conversation and not said in it."""
SILENCE = "__SILENCE__"
"""ParlAI's tasks' word for a turn in which nothing was said."""
W_MIN = 0.25
"""Smallest social weight of a negative, and the weight of in-batch negatives.

See docs/design.md#social-weights."""

CASUAL = "__casual__"
SAFETY_LABELS = [
    CASUAL,
    "__possibly_needs_caution__",
    "__probably_needs_caution__",
    "__needs_caution__",
    "__needs_intervention__",
]
"""ProsocialDialog's five labels (Kim et al., EMNLP 2022), from harmless to dangerous."""

OK_LABEL = "__ok__"
NOT_OK_LABEL = "__notok__"
BINARY_LABELS = [OK_LABEL, NOT_OK_LABEL]
"""The two labels of ParlAI's own safety tasks."""


@dataclass(frozen=True)
class ContrastiveExample:
    """A context, a fitting reply and the replies that don't fit.

    Attributes:
        context: the turns so far, oldest first; the last one is the user's. No turn holds a
            line break.
        response: the fitting reply.
        rots: rules of thumb that hold in this context; may be empty.
        safety_label: one of :data:`SAFETY_LABELS`, or None where nobody labelled the context.
        negatives: K >= 0 replies that do not fit.
        negative_weights: K social weights, each at least :data:`W_MIN`; the mean of their
            logarithms over the corpus is 0.
        reference_log_prob: mean log p of the response's tokens, its end-of-turn token left out, by
            the model that training starts from; None where nobody scored it.
        negative_reference_log_probs: the same of the K negatives, or none at all.
        contrast_group: examples with the same group must not be each other's negatives.
        source: the corpus.
    """

    context: list[str]
    response: str
    rots: list[str] = field(default_factory=list)
    safety_label: str | None = None
    negatives: list[str] = field(default_factory=list)
    negative_weights: list[float] = field(default_factory=list)
    reference_log_prob: float | None = None
    negative_reference_log_probs: list[float] = field(default_factory=list)
    contrast_group: str = ""
    source: str = ""


def packed_text(turns: Iterable[str]) -> str:
    """A dialogue as the text of one ParlAI message, a turn a line; no turn holds a line break.

    >>> packed_text(["Hi!", "", "Are you there?"])
    'Hi!\\n__SILENCE__\\nAre you there?'
    """
    return "\n".join(turn or SILENCE for turn in turns)


def message_lines(text: str) -> list[str]:
    """The lines of a ParlAI message; ``""`` is a turn in which nothing was said.

    That is a line :data:`SILENCE` among others that are said, or a message without a word: without
    it the speakers before it would swap. Blank lines between others are for the eye, as after a
    paragraph, and none.

    >>> message_lines("Hi! \\n\\nHello.\\n__SILENCE__\\nAre you there?"), message_lines(" ")
    (['Hi!', 'Hello.', '', 'Are you there?'], [''])
    >>> message_lines("your persona: I sail.\\n__SILENCE__")
    ['your persona: I sail.', '__SILENCE__']
    """
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    said = [line for line in lines if not line.lower().startswith(SYSTEM_LINE_PREFIXES)]
    if len(said) > 1:  # alone it is what a task of ParlAI's begins a dialogue with
        lines = ["" if line == SILENCE else line for line in lines]
    return lines or [""]


def rot_lines(rots: list[str]) -> list[str]:
    """Return one prefixed line a rule of thumb, as contexts and labels carry them."""
    return [ROT_PREFIX + rot for rot in rots]


def split_rots(written: str) -> tuple[list[str], str]:
    """Split what a model wrote into its rules of thumb and its reply, the reply on one line.

    >>> split_rots("rule of thumb: You should be honest.\\nTell him\\ntoday.")
    (['You should be honest.'], 'Tell him today.')
    """
    lines = [line.strip() for line in written.split("\n") if line.strip()]
    # Without its last blank too: an empty rule of thumb has lost it.
    prefix = ROT_PREFIX.strip()
    rots = [line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)]
    reply = " ".join(line for line in lines if not line.startswith(prefix))
    return [rot for rot in rots if rot], reply
