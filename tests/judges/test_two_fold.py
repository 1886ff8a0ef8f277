"""Each context is judged by the classifier that was not trained on it."""

import json

import pytest

from parlai_prosocial.data.labelled import half_of
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.two_fold import TwoFoldJudge
from parlai_prosocial.util.missing import Missing


class OfOneHalf:
    """Answers with the half that it was trained on as p(unsafe); an empty reply is missing."""

    def __init__(self, half):
        self.half, self.name, self.missing = half, f"classifier@{half}", Missing()

    def judge(self, contexts, replies):
        self.missing.note(self.name, ("empty" for reply in replies if not reply))
        return [Judgement(float(self.half), "") if reply else None for reply in replies]


def test_the_other_halfs_judge_answers_in_the_given_order():
    contexts = [f"Line {i}.\nLine {i + 1}." for i in range(40)]
    judge = TwoFoldJudge(OfOneHalf(0), OfOneHalf(1))
    found = judge.judge(contexts, ["Reply."] * 39 + [""])
    assert [one.p_unsafe for one in found[:39]] == [1 - half_of(c) for c in contexts[:39]]
    assert found[39] is None and judge.missing == {"empty": 1}
    assert {half_of(context) for context in contexts} == {0, 1}


def test_what_one_raises_is_noted():
    class Raises(OfOneHalf):
        def judge(self, contexts, replies):
            if "Odd." in replies:
                raise ValueError("too odd")
            return super().judge(contexts, replies)

    contexts = [f"Line {i}." for i in range(40)]
    judge = TwoFoldJudge(Raises(0), Raises(1))
    found = judge.judge(contexts, ["Reply."] * 39 + ["Odd."])
    assert [one is None for one in found] == [False] * 39 + [True]
    assert judge.missing == {"ValueError": 1}


def test_its_name_tells_which_two():
    names = {
        TwoFoldJudge(OfOneHalf(0), OfOneHalf(1)).name,
        TwoFoldJudge(OfOneHalf(1), OfOneHalf(0)).name,
    }
    assert len(names) == 2 and all(name.startswith("two-fold@") for name in names)


@pytest.fixture
def halves(tmp_path, tiny_encoder):
    """Names of two trained classifiers, and of one that saw everything."""
    from parlai.scripts.train_model import TrainModel

    rows = [
        {"context": [f"Turn {i}."], "reply": f"Reply {j}.", "axis": "unsafe", "label_1": j == 1}
        for i in range(60)
        for j in range(2)
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {}
    for half in (0, 1, None):
        files[half] = str(tmp_path / f"judge-{half}" / "model")
        TrainModel.main(
            model="prosocial/classifier",
            task="prosocial:Labelled",
            labels=str(labels),
            **({} if half is None else {"labels_half": half}),
            backbone=str(tiny_encoder),
            model_file=files[half],
            precision="bf16",
            batchsize=4,
            max_train_steps=1,
            datapath=str(tmp_path / "data"),
            evaltask="prosocial:Labelled",
            datatype="train:ordered",
            verbose=False,
        )
    return files


def test_two_trained_classifiers_open_in_either_order(halves, tmp_path):
    judges = [
        open_judge(f"two-fold:{halves[a]},{halves[b]}", str(tmp_path), bf16=False)
        for a, b in ((0, 1), (1, 0))
    ]
    assert judges[0].name == judges[1].name
    given = [judge.judge(["Turn 1.", "Turn 2."], ["No.", "Yes."]) for judge in judges]
    assert given[0] == given[1] and all(0 < one.p_unsafe < 1 for one in given[0])
    for wrong in (f"{halves[0]},{halves[0]}", halves[0]):
        with pytest.raises(UserError, match="--labels-half 0 and one with"):
            open_judge(f"two-fold:{wrong}", str(tmp_path), bf16=False)
    with pytest.raises(UserError, match="was not trained with --labels-half"):
        open_judge(f"two-fold:{halves[0]},{halves[None]}", str(tmp_path), bf16=False)
