"""Two classifiers, each trained on one half of the contexts, each asked about the other half."""

import hashlib
from collections.abc import Sequence

from parlai_prosocial.data.labelled import half_of
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import Judge, Judgement, judge_each
from parlai_prosocial.util.files import read_json
from parlai_prosocial.util.missing import Missing
from parlai_prosocial.zoo.resolve import find_classifier


class TwoFoldJudge:
    """Judges replies to contexts of half h by the classifier that was trained on the other half.

    So the judge that chooses training pairs has not seen the labels of what it judges. Contexts
    without labels belong to a half too (:func:`~parlai_prosocial.data.labelled.half_of`).

    Args:
        first: trained on half 0.
        second: trained on half 1.
    """

    def __init__(self, first: Judge, second: Judge):
        self.trained_on = (first, second)
        parts = f"{first.name} {second.name}".encode()
        self.name = f"two-fold@{hashlib.sha256(parts).hexdigest()[:16]}"

    @property
    def missing(self) -> Missing:
        """Why judgements are missing, of both."""
        together = Missing()
        for judge in self.trained_on:
            together.update(judge.missing)
        return together

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        """See :class:`~parlai_prosocial.judges.judge.Judge`."""
        found: list[Judgement | None] = [None] * len(replies)
        for half, judge in enumerate(self.trained_on):
            places = [i for i, context in enumerate(contexts) if half_of(context) != half]
            # By judge_each, so that what one raises is noted as its own.
            given = judge_each(judge, [contexts[i] for i in places], [replies[i] for i in places])
            for place, judgement in zip(places, given, strict=True):
                found[place] = judgement
        return found


def half_trained_on(name: str, flag: str, datapath: str) -> int:
    """The ``--labels-half`` that a classifier was trained with.

    Raises:
        UserError: there is no such classifier, or it was trained without.
    """
    file = find_classifier(name, flag, datapath).place
    half = read_json(file.with_name(file.name + ".opt"), dict, "train it again").get("labels_half")
    if half is None:
        raise UserError(
            f"{flag}{name}: was not trained with --labels-half; train two, with 0 and with 1"
        )
    return int(half)
