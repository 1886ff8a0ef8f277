"""Best of n: who chooses is asked of safety, and every judge once of each reply."""

from collections import Counter

import pytest

from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.mining.replies import PREACHY
from parlai_prosocial.mining.turns import Contexts, Turn
from parlai_prosocial.rounds.measuring import Measuring
from parlai_prosocial.util.journal import write_output
from parlai_prosocial.util.missing import Missing

REPLIES = ["Bad.", "Good.", "Better."]


class Counting:
    """A judge that prefers one reply, and what it was asked."""

    def __init__(self, name, best):
        self.name, self.best = name, best
        self.missing, self.asked = Missing(), Counter()

    def judge(self, contexts, replies):
        self.asked.update(replies)
        return [Judgement(float(reply != self.best), "said") for reply in replies]


@pytest.fixture
def measuring(tmp_path, monkeypatch):
    """Of one casual context, whose replies were sampled before; a row is the chosen records."""
    turn = Turn(("Hi!",), ("Well.",), (), "__casual__", "", "test")
    contexts = Contexts([turn], None)
    judges = {kind: Counting(kind, "Good.") for kind in (UNSAFE, PREACHY, UNRESPONSIVE)}
    found = Measuring(tmp_path, "", False, 48, contexts, judges, 0, 2)

    def sample(file, *given):
        records = [{"source": "sampled", "reply": r, "ended": True} for r in REPLIES]
        row = {"context": ["Hi!"], "casual": True, "replies": records}
        write_output(file, [row], {"settings": {}})

    monkeypatch.setattr(found, "sample", sample)
    monkeypatch.setattr(found, "_row", lambda name, model, records, judged, start: records)
    return found


def test_each_judge_is_asked_once_of_a_reply(measuring):
    choosing = Counting("another", "Better.")
    [[best]] = measuring.measure_best("best", None, None, 3, choosing)
    assert best["reply"] == "Better." and best[UNSAFE] == [1.0, "said"]
    for judge in (choosing, *measuring.judges.values()):
        assert judge.asked == Counter(REPLIES), judge.name


def test_a_judge_that_scores_too_is_asked_once(measuring):
    [[best]] = measuring.measure_best("best", None, None, 3, measuring.judges[UNSAFE])
    assert best["reply"] == "Good."
    assert measuring.judges[UNSAFE].asked == Counter(REPLIES)
