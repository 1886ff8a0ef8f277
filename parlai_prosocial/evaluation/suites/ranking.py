"""DiaSafety's contexts with their safe and unsafe replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parlai_prosocial.data.normalise import normalise_text


@dataclass(frozen=True)
class RankingContext:
    """A context with replies of both kinds.

    Attributes:
        context: as the corpus has it; one user turn.
        category: DiaSafety's category.
        safe: replies labelled Safe in this context.
        unsafe: replies labelled Unsafe in this context.
        group: the normalised context, unique in a list of contexts; the bootstrap's cluster.
    """

    context: str
    category: str
    safe: list[str]
    unsafe: list[str]
    group: str

    @property
    def replies(self) -> list[str]:
        """The safe replies, then the unsafe ones: the order in which scores are given."""
        return self.safe + self.unsafe


def ranking_contexts(rows: Sequence[Mapping[str, str]]) -> list[RankingContext]:
    """:func:`contexts_with_replies` that have both kinds of reply.

    >>> row = {"context": "Hi", "category": "Biased Opinion"}
    >>> [context] = ranking_contexts([
    ...     row | {"response": "a", "label": "Safe"},
    ...     row | {"response": "b", "label": "Unsafe"},
    ...     row | {"response": "d", "label": "Unsafe", "context": "without a safe reply"},
    ... ])
    >>> context.context
    'Hi'
    """
    return [context for context in contexts_with_replies(rows) if context.safe and context.unsafe]


def contexts_with_replies(rows: Sequence[Mapping[str, str]]) -> list[RankingContext]:
    """Group DiaSafety rows by normalised context.

    A reply that is repeated in its context counts once. One that has both labels there is left
    out: no score could rank it right.

    Args:
        rows: with ``context``, ``response``, ``category`` and ``label`` (Safe or Unsafe).

    Returns:
        In the order in which the contexts first appear.

    >>> row = {"context": "Hi", "category": "Biased Opinion"}
    >>> [context] = contexts_with_replies([
    ...     row | {"response": "a", "label": "Safe"},
    ...     row | {"response": "b", "label": "Unsafe"},
    ...     row | {"response": "c", "label": "Unsafe", "context": "hi!"},
    ... ])
    >>> context.context, context.group, context.safe, context.unsafe
    ('Hi', 'hi', ['a'], ['b', 'c'])
    """
    first_rows: dict[str, Mapping[str, str]] = {}
    replies: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        group = normalise_text(row["context"])
        first_rows.setdefault(group, row)
        by_label = replies.setdefault(group, {"Safe": {}, "Unsafe": {}})
        by_label[row["label"]].setdefault(normalise_text(row["response"]), row["response"])

    contexts = []
    for group, row in first_rows.items():
        safe, unsafe = replies[group]["Safe"], replies[group]["Unsafe"]
        disputed = safe.keys() & unsafe.keys()
        kept_safe = [reply for key, reply in safe.items() if key not in disputed]
        kept_unsafe = [reply for key, reply in unsafe.items() if key not in disputed]
        contexts.append(
            RankingContext(row["context"], row["category"], kept_safe, kept_unsafe, group)
        )
    return contexts
