"""Gates: what they mean, and that one that cannot be decided never passes."""

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.gates import check_decidable, decide, parse_gate, suites_of
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval

COUNTS = {
    "adversarial": {"unsafe": 200, "agreement": 60},
    "casual": {"unsafe": 200, "over-caution": 200},
    "scary": {"unsafe": 100, "agreement": 100, "over-caution": 100},
}
ALL = ["agreement", "over-caution", "unsafe"]


def summary(hits, judged, missing, misordered=()):
    rate = {"hits": hits, "judged": judged, "missing": missing, "rate": None}
    results = [
        {"model": model, "suite": suite, "all": {"rates": {axis: {"j@1": rate} for axis in axes}}}
        for suite, axes in COUNTS.items()
        for model in ("tuned", "base")
    ]
    return {"results": results, "misordered": list(misordered)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unsafe_rate>0.05", (None, "unsafe", "estimate", False, 0.05)),
        (" agreement_rate.upper  >=  5e-2 ", (None, "agreement", "high", True, 0.05)),
        ("data/my file.jsonl:overcaution_rate.lower > 0", ("data/my file.jsonl", "over-caution")),
    ],
)
def test_grammar(text, expected):
    gate = parse_gate(text)
    found = (gate.suite, gate.axis, gate.end, gate.inclusive, gate.limit)
    assert found[: len(expected)] == expected
    assert gate.text == text.strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write .SUITE:.METRIC"),
        ("unsafe_rate", "write .SUITE:.METRIC"),
        ("unsafe > 0.1", "no metric unsafe; there are unsafe_rate"),
        ("unsafe_rate.high > 0.1", ".high must be one of .lower, .upper, .estimate"),
        ("unsafe_rate < 0.1", "use > or >="),
        ("unsafe_rate == 0.1", "use > or >="),
        ("unsafe_rate > 5", "a share from 0 to less than 1"),
        ("unsafe_rate > nan", "a share from 0 to less than 1"),
        ("unsafe_rate > five", "five is no number"),
        ("unsafe_rate > __import__('os')", "is no number"),
        ("unsafe_rate > 0.1 or 1", "write .SUITE:.METRIC"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UserError, match=message):
        parse_gate(text)


def test_without_a_suite_all_that_judge_it():
    assert suites_of(parse_gate("agreement_rate > 0.1"), COUNTS) == ["adversarial", "scary"]
    assert suites_of(parse_gate("casual:unsafe_rate > 0.1"), COUNTS) == ["casual"]


@pytest.mark.parametrize(
    ("text", "judged", "message"),
    [
        ("unsafe_rate > 0.1", ["over-caution"], "nobody judges what is unsafe.*--judge KIND"),
        ("agreement_rate > 0.1", ["unsafe"], "--judge agreement=KIND:WHERE"),
        ("mic:unsafe_rate > 0.1", ALL, "suite mic is not run; there are adversarial"),
        ("casual:agreement_rate > 0.1", ALL, "no context of casual is judged on that"),
        ("agreement_rate > 0.1", ALL, "only 60 contexts of adversarial.*as in scary:METRIC"),
    ],
)
def test_what_cannot_be_decided_is_refused_before_anything_is_run(text, judged, message):
    with pytest.raises(UserError, match=message):
        check_decidable(parse_gate(text), COUNTS, judged, 100)


def test_what_can_be_decided():
    for text in ("unsafe_rate > 0.1", "overcaution_rate > 0", "scary:agreement_rate > 0.1"):
        check_decidable(parse_gate(text), COUNTS, ALL, 100)


def test_missing_counts_as_a_fault():
    found = decide(parse_gate("casual:unsafe_rate > 0.05"), COUNTS, summary(0, 90, 10), ["tuned"])
    [entry] = found
    assert (entry["model"], entry["n"], entry["missing"]) == ("tuned", 100, 10)
    assert entry["value"] == 0.1 and entry["failed"]
    # Had the missing ones been left out, it would have passed.
    [entry] = decide(parse_gate("casual:unsafe_rate > 0.05"), COUNTS, summary(0, 90, 0), ["tuned"])
    assert entry["value"] == 0 and not entry["failed"]
    nothing = summary(0, 0, 100)
    [entry] = decide(parse_gate("casual:unsafe_rate > 0.9"), COUNTS, nothing, ["tuned"])
    assert entry["value"] == 1 and entry["failed"]


def test_ends_and_limits():
    interval = wilson_interval(10, 100)

    def failed(text):
        [entry] = decide(parse_gate(f"casual:{text}"), COUNTS, summary(10, 100, 0), ["base"])
        return entry["failed"]

    assert failed("unsafe_rate.upper > 0.17") and not failed("unsafe_rate.upper > 0.18")
    assert failed("unsafe_rate.lower > 0.05") and not failed("unsafe_rate.lower > 0.06")
    assert 0.17 < interval.high < 0.18 and 0.05 < interval.low < 0.06
    assert failed("unsafe_rate >= 0.1") and not failed("unsafe_rate > 0.1")


def test_every_suite_model_and_judge():
    found = decide(parse_gate("unsafe_rate > 0.5"), COUNTS, summary(1, 100, 0), ["tuned", "base"])
    assert [(entry["suite"], entry["model"]) for entry in found] == [
        (suite, model) for suite in COUNTS for model in ("tuned", "base")
    ]


def test_a_judge_that_does_not_know_the_sentinels_decides_nothing():
    doubtful = {
        "suite": "scary",
        "axis": "agreement",
        "judge": "j@1",
        "worse": "always agreement",
        "better": "always a refusal",
    }
    found = summary(0, 100, 0, [doubtful])
    for text in ("agreement_rate > 0.1", "scary:agreement_rate > 0.1"):
        with pytest.raises(UserError, match="j@1 cannot decide it on scary: it does not find"):
            decide(parse_gate(text), COUNTS, found, ["tuned"])
    assert decide(parse_gate("adversarial:agreement_rate > 0.1"), COUNTS, found, ["tuned"])
    assert decide(parse_gate("unsafe_rate > 0.1"), COUNTS, found, ["tuned"])
