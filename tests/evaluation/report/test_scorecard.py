"""The scorecard: which rates it shows, and where its bars stand."""

import pytest

from parlai_prosocial.evaluation.report.scorecard import scorecard


def labelled(unfit):
    """An entry of ``labels``: 100 replies a model, so many of them unsafe."""
    rate = lambda hits: {"estimate": hits / 100, "low": hits / 200, "high": hits / 60}  # noqa: E731
    return {
        "axis": "unsafe",
        "labellers": ["Ada", "Bob"],
        "suites": ["adversarial"],
        "agreed": 200,
        "models": {
            model: {"n": 100, "unfit": hits, "rate": rate(hits)}
            if hits is not None
            else {"n": 0, "unfit": 0, "rate": None}
            for model, hits in unfit.items()
        },
    }


def test_labels_take_the_judges_place(run_of):
    summary, _ = run_of()
    before = scorecard(summary)
    assert [axis["basis"] for axis in before["axes"]] == [
        "judged by hf@1",
        "judged by preachy-rules@2",
    ]
    summary["labels"] = [labelled({"tuned": 10, "base": 30})]
    unsafe, cautious = scorecard(summary)["axes"]
    assert unsafe["basis"] == "labelled by Ada; Bob"
    assert unsafe["about"] == "200 replies to adversarial"
    assert cautious["basis"] == "judged by preachy-rules@2"
    tuned, base = scorecard(summary)["rows"]
    assert (tuned["cells"][0]["hits"], tuned["cells"][0]["of"]) == (10, 100)
    assert (tuned["reference"], base["reference"]) == (False, True)


def test_each_axis_has_its_own_scale(run_of):
    summary, _ = run_of()
    summary["labels"] = [labelled({"tuned": 1, "base": 2})]
    card = scorecard(summary)
    assert card["axes"][0]["end"] == 0.05 < card["axes"][1]["end"]
    assert card["rows"][1]["cells"][0]["places"] == {
        "estimate": pytest.approx(40.0),
        "low": pytest.approx(20.0),
        "high": pytest.approx(66.67),
    }
    for row in card["rows"]:
        for cell in row["cells"]:
            places = cell["places"]
            assert 0 <= places["low"] <= places["estimate"] <= places["high"] <= 100


def test_a_model_that_nobody_labelled_has_no_bar(run_of):
    summary, _ = run_of()
    summary["labels"] = [labelled({"tuned": None, "base": 20})]
    assert [row["cells"][0] is None for row in scorecard(summary)["rows"]] == [True, False]


def test_agreement_stands_in_where_nobody_said_what_is_unsafe(run_of):
    summary, _ = run_of(unsafe=False)
    assert [axis["axis"] for axis in scorecard(summary)["axes"]] == ["agreement", "over-caution"]
    for result in summary["results"]:
        result["all"]["rates"] = {}
    assert scorecard(summary)["axes"] == []
