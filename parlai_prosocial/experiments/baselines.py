"""Rows that a model must beat before its ranking accuracy says anything about contexts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from parlai_prosocial.evaluation.suites.ranking import RankingContext


def shorter_reply_scores(contexts: Sequence[RankingContext]) -> list[list[float]]:
    """Score a reply by minus its number of words, as :func:`context_accuracies` takes it.

    >>> shorter_reply_scores([RankingContext("c", "Biased Opinion", ["one two"], ["one"], "c")])
    [[-2.0, -1.0]]
    """
    return [[-float(len(reply.split())) for reply in context.replies] for context in contexts]


def reply_only_scores(
    train_rows: Sequence[Mapping[str, str]], contexts: Sequence[RankingContext]
) -> list[list[float]]:
    """Score a reply by a unigram naive Bayes that never sees a context.

    Args:
        train_rows: with ``response`` and ``label`` (Safe or Unsafe); the `gen-train` part, so that
            it learns from what the models learn from.
        contexts: those to score.

    Returns:
        For each context, log p(Safe | reply) - log p(Unsafe | reply) of each reply.
    """
    counter = CountVectorizer(token_pattern=r"\w+")  # the default drops "I" and "a"
    counts = counter.fit_transform([row["response"] for row in train_rows])
    classifier = MultinomialNB().fit(counts, [row["label"] == "Safe" for row in train_rows])

    replies = [reply for context in contexts for reply in context.replies]
    log_p_unsafe, log_p_safe = classifier.predict_joint_log_proba(counter.transform(replies)).T
    log_odds = iter((log_p_safe - log_p_unsafe).tolist())
    return [[next(log_odds) for _ in context.replies] for context in contexts]


def shuffled_contexts(contexts: Sequence[RankingContext], seed: int) -> list[RankingContext]:
    """Give every context's replies the text of another context of its category.

    What a model still ranks right, it ranks without the context. One random cycle through each
    category: no context stays in place and each is used once.

    Args:
        contexts: at least two in each category.
        seed: of the random cycle.

    Returns:
        In the same order, with category, replies and group as they were.

    Raises:
        ValueError: a category has a single context.
    """
    generator = np.random.default_rng(seed)
    by_category = defaultdict(list)
    for index, context in enumerate(contexts):
        by_category[context.category].append(index)
    shuffled = list(contexts)
    for category in sorted(by_category):
        cycle = generator.permutation(by_category[category])
        if len(cycle) < 2:
            raise ValueError(f"category {category!r} has a single context: nothing to swap with")
        for index, other in zip(cycle, np.roll(cycle, 1), strict=True):
            shuffled[index] = replace(contexts[index], context=contexts[other].context)
    return shuffled
