"""F1 and BLEU-4 against ParlAI's own reports and sacrebleu; merging over ranks."""

import pytest
import sacrebleu
from parlai.core.message import Message
from parlai.core.metrics import TeacherMetrics, normalize_answer

from parlai_prosocial.evaluation.metrics.text import F1, Bleu4, Distinct, bleu_4

REPLIES = [
    "The harbour was quiet, so we walked along the old wall.",
    "No.",
    "",
    "I think the film was a bit long, but the music made up for it!",
    "We walked along the wall of the harbour until it was dark.",
]
REFERENCES = [
    ["We walked along the old wall; the harbour was quiet.", "It was dark."],
    ["No, never!"],
    ["Anything at all"],
    ["the film was a bit long, but the music was good"],
    ["Until dark we walked on, along the wall of the harbour."],
]


def parlai_report(replies, references):
    """As ``parlai eval_model`` would report these replies."""
    metrics = TeacherMetrics(metrics_list="f1,bleu")
    for reply, own in zip(replies, references, strict=True):
        metrics.evaluate_response(Message(text=reply), own)
    return {name: value.value() for name, value in metrics.report().items()}


@pytest.mark.parametrize(("metric", "name"), [(F1, "f1"), (Bleu4, "bleu-4")])
def test_equal_to_parlai_however_the_replies_are_spread(metric, name):
    expected = parlai_report(REPLIES, REFERENCES)[name]
    assert 0 < expected < 1
    whole = metric()
    whole.update(REPLIES, REFERENCES)
    assert whole.compute() == pytest.approx(expected, abs=1e-6)
    for cut in range(len(REPLIES) + 1):
        first, second = metric(), metric()
        first.update(REPLIES[:cut], REFERENCES[:cut])
        second.update(REPLIES[cut:], REFERENCES[cut:])
        first.merge(second)
        assert first.compute() == pytest.approx(expected, abs=1e-6)


def test_bleu_is_sacrebleus_on_the_same_words():
    """ParlAI's words, no tokenisation; where a reply has four words at least."""
    compared = 0
    for reply, own in zip(REPLIES, REFERENCES, strict=True):
        words = normalize_answer(reply)
        if len(words.split()) < 4:
            continue
        compared += 1
        expected = sacrebleu.sentence_bleu(
            words,
            [normalize_answer(reference) for reference in own],
            tokenize="none",
            smooth_method="floor",
            smooth_value=1e-12,
            use_effective_order=False,
        )
        assert bleu_4(reply, own) == pytest.approx(expected.score / 100, abs=1e-6)
    assert compared == 3


def test_distinct_counts_over_all_replies():
    halves = Distinct(2), Distinct(2)
    halves[0].update(["a b a b", "A b"])
    halves[1].update(["a b c"])
    halves[0].merge(halves[1])
    assert halves[0].compute() == pytest.approx(3 / 6)  # ab ba ab | ab | ab bc
    with pytest.raises(ValueError, match="n is 2 here and 1 there"):
        halves[0].merge(Distinct(1))
    assert Distinct(3).compute() == 0


def test_nothing_has_no_value():
    assert F1().compute() is None
