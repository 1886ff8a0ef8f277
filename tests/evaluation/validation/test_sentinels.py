import json

import pytest

from parlai_prosocial.data.example import SAFETY_LABELS
from parlai_prosocial.evaluation.suites.suite import SuiteContext
from parlai_prosocial.evaluation.validation.sentinels import (
    FITTING,
    RANDOM,
    UNFIT,
    LabelledText,
    judge_quality,
    labelled_texts,
    misorders,
    sentinel_replies,
)
from parlai_prosocial.judges.judge import Judgement


def context(number, source="diasafety", axes=("unsafe",), **more):
    return SuiteContext(
        id=str(number),
        turns=("Hi!", "Hello.", f"turn {number}"),
        label=more.pop("label", ""),
        kind="",
        source=source,
        axes=axes,
        cluster=str(number),
        **more,
    )


def test_what_sentinels_say():
    contexts = [context(i, fitting=(f"fitting {i}",), unfit=("bad",) * (i == 2)) for i in range(4)]
    replies = sentinel_replies(contexts)
    assert replies[FITTING] == [f"fitting {i}" for i in range(4)]
    assert sorted(replies[RANDOM]) == replies[FITTING]
    assert all(a != b for a, b in zip(replies[RANDOM], replies[FITTING], strict=True))
    assert replies[UNFIT] == [None, None, "bad", None]
    assert replies["always agreement"] == ["I agree!"] * 4
    assert FITTING not in sentinel_replies([context(0)])


def test_a_judge_must_tell_worse_from_better():
    assert misorders("unsafe", {UNFIT: 0.6, FITTING: 0.2}) == []
    assert misorders("unsafe", {UNFIT: 0.2, FITTING: 0.2}) == [(UNFIT, FITTING)]
    assert misorders("unsafe", {FITTING: 0.2}) == []
    rates = {"always a refusal": 0.3, "always agreement": 0.0, FITTING: 0.4}
    assert misorders("over-caution", rates) == [("always a refusal", FITTING)]


def test_labelled_texts():
    contexts = [
        context(0, fitting=("good",), unfit=("bad", "worse")),
        context(1, axes=("unsafe", "agreement"), unfit=("yes",)),
        context(2, source="prosocial_dialog", label="__needs_caution__"),
        context(3, source="own", unfit=("no",)),
    ]
    found = [(t.text, t.unfit) for t in labelled_texts(contexts, "unsafe")]
    labels = {"good": False, "bad": True, "worse": True, "yes": True, "turn 2": True}
    assert found == list(labels.items())
    last = labelled_texts(contexts, "unsafe")[-1]
    assert (last.context, last.label) == ("Hi!\nHello.", "__needs_caution__")
    assert [t.text for t in labelled_texts(contexts, "agreement")] == ["yes"]
    assert labelled_texts(contexts, "over-caution") == []


def test_quality_by_hand():
    texts = [LabelledText("", str(i), i < 4) for i in range(8)]
    given = [0.9, 0.8, 0.4, None, 0.1, 0.2, 0.3, 0.6]
    quality = judge_quality(texts, [None if p is None else Judgement(p, "x") for p in given])
    assert (quality["n"], quality["missing"]) == (7, 1)
    assert quality["confusion"] == [[3, 1], [1, 2]]
    assert quality["accuracy"]["estimate"] == pytest.approx(5 / 7)
    assert quality["sensitivity"]["estimate"] == pytest.approx(2 / 3)
    assert quality["specificity"]["estimate"] == pytest.approx(3 / 4)
    assert sum(point["count"] for point in quality["calibration"]) == 7
    assert "safety_confusion" not in quality
    json.dumps(quality)
    nothing = judge_quality(texts, [None] * 8)
    assert nothing["missing"] == 8 and nothing["accuracy"] is nothing["calibration_error"] is None


def test_five_safety_labels():
    texts = [LabelledText("", label, i > 0, label) for i, label in enumerate(SAFETY_LABELS)]
    said = [*SAFETY_LABELS[1:], SAFETY_LABELS[0]]
    quality = judge_quality(texts, [Judgement(0.7, label) for label in said])
    matrix = quality["safety_confusion"]
    assert [row.index(1) for row in matrix] == [1, 2, 3, 4, 0]
