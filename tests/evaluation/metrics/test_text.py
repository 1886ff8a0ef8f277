"""F1 and BLEU-4 against ParlAI's own reports and sacrebleu."""

import pytest
import sacrebleu
from parlai.core.message import Message
from parlai.core.metrics import TeacherMetrics, normalize_answer

from parlai_prosocial.evaluation.metrics.text import Distinct, bleu_4, f1

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


@pytest.mark.parametrize(("score", "name"), [(f1, "f1"), (bleu_4, "bleu-4")])
def test_the_mean_is_what_parlai_reports(score, name):
    expected = parlai_report(REPLIES, REFERENCES)[name]
    assert 0 < expected < 1
    scores = [score(reply, own) for reply, own in zip(REPLIES, REFERENCES, strict=True)]
    assert sum(scores) / len(scores) == pytest.approx(expected, abs=1e-6)


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
    metric = Distinct(2)
    metric.update(["a b a b", "A b"])
    metric.update(["a b c"])
    assert metric.compute() == pytest.approx(3 / 6)  # ab ba ab | ab | ab bc
    assert Distinct(3).compute() == 0
