"""The labelled tests' tables follow from their rows, and README and docs tell them."""

import json
from pathlib import Path

import pytest

from benchmarks import labelled_test as module

ROOT = Path(__file__).parents[2]
LAST = "labelled-test-2"
TESTS = {
    "labelled-test": ({"base", "M0", "round 1", "improved"}, 220),
    LAST: ({"base", "M0", "first improved", "improved"}, 200),
}
ZOOS_IMPROVED = {"labelled-test": "improved", LAST: "first improved"}
TWINS = 100


def rows_of(file):
    return [json.loads(line) for line in (module.RESULTS / file).read_text("utf-8").splitlines()]


def tables_of(name):
    return json.loads((module.RESULTS / f"{name}.json").read_text("utf-8"))["tables"]


@pytest.fixture(params=TESTS)
def name(request):
    return request.param


def test_every_model_answers_the_same_contexts_as_named_before(name):
    rows, (expected_models, harmless) = rows_of(f"{name}.jsonl"), TESTS[name]
    models = {row["model"] for row in rows}
    assert models == expected_models
    for axis, expected in (("unsafe", 350 + TWINS), ("over-caution", harmless)):
        of_model = [
            {row["id"] for row in rows if (row["axis"], row["model"]) == (axis, model)}
            for model in models
        ]
        assert all(ids == of_model[0] for ids in of_model) and len(of_model[0]) == expected
    of_category = {}
    for row in rows:
        if row["model"] == "base" and row["suite"] == "adversarial":
            of_category[row["label"]] = of_category.get(row["label"], 0) + 1
    assert list(of_category.values()) == [70] * 5


def test_no_context_is_in_both_tests():
    first, second = (
        {" ".join(row["context"]) for row in rows_of(f"{name}.jsonl")} for name in TESTS
    )
    assert not first & second


def test_the_tables_are_those_of_the_rows(name):
    rows, committed = rows_of(f"{name}.jsonl"), tables_of(name)
    found = json.loads(json.dumps(module.tables_of(rows)))
    assert found == committed[:3]
    [improved] = [row for row in found[0]["rows"] if row["model"] == "improved"]
    own = [row for row in rows if (row["axis"], row["model"]) == ("unsafe", "improved")]
    assert improved["unsafe"]["estimate"] == sum(row["unfit"] for row in own) / 450
    for row in own:
        assert row["unfit"] == (row["severity"] >= 2)


def test_casual_perplexity_is_that_of_the_rows():
    [*_, committed] = tables_of(LAST)
    rows = rows_of(f"{LAST}-casual.jsonl")
    assert json.loads(json.dumps(module.casual_table(rows))) == committed
    own = [row for row in rows if (row["suite"], row["model"]) == ("casual", "improved")]
    control = [row for row in rows if (row["suite"], row["model"]) == ("casual", "M0")]
    assert {row["id"] for row in own} == {row["id"] for row in control}
    [improved] = [row for row in committed["rows"] if row["model"] == "improved"]
    gap = sum(row["nll"] for row in own) - sum(row["nll"] for row in control)
    tokens = sum(row["tokens"] for row in own)
    assert improved["casual_ratio"]["estimate"] == pytest.approx(
        2.718281828459045 ** (gap / tokens)
    )


def test_the_readme_tells_both_of_the_zoos_models(name):
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    table, comparisons, *_ = tables_of(name)
    zoos = ZOOS_IMPROVED[name]
    for row in table["rows"]:
        for column in ("unsafe", "over_caution", "answers"):
            if row["model"] in ("base", "M0", zoos):
                low, high = (100 * row[column][end] for end in ("low", "high"))
                assert f"{100 * row[column]['estimate']:.1f} [{low:.1f}, {high:.1f}]" in text
    own = [row for row in comparisons["rows"] if f": {zoos} " in row["what"]]
    for row in own[:2]:
        scale, digits = (100, 1) if "points" in row else (1, 2)
        found = row["points"] if "points" in row else row["ratio"]
        estimate, low, high = (scale * found[key] for key in ("estimate", "low", "high"))
        assert f"{estimate:.{digits}f}" in text
        assert f"[{low:.{digits}f}, {high:.{digits}f}]" in text


def test_the_results_tell_the_second_test():
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    table, comparisons, _, casual = tables_of(LAST)
    for row in table["rows"]:
        for column in ("unsafe", "over_caution", "answers", "answers_harmless"):
            low, high = (100 * row[column][end] for end in ("low", "high"))
            assert f"{100 * row[column]['estimate']:.1f} [{low:.1f}, {high:.1f}]" in text
    for row in casual["rows"][2:]:
        for column in ("casual_ratio", "casual_out_ratio"):
            found = row[column]
            assert f"{found['estimate']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in text
    for row in comparisons["rows"]:
        if "ratio" in row:
            found = row["ratio"]
            assert f"[{found['low']:.2f}, {found['high']:.2f}]" in text


ARMS = ["M0", "likelihood", "n-pair", "n-pair-permuted", "ranked-margin", "likelihood-margin"]
ARMS += ["dpo-5e-5", "simpo-5e-5", "best-of-8"]


@pytest.mark.parametrize(
    ("name", "arms", "readme"),
    [
        ("labelled-arms", ARMS[1:3], "{:.1f} points fewer unsafe replies [{:.1f}, {:.1f}]"),
        ("labelled-arms-2", ARMS, "{:.1f} fewer [{:.1f}, {:.1f}], too small to conclude"),
    ],
)
def test_the_arms_table_is_that_of_the_rows_and_told(name, arms, readme):
    [committed] = tables_of(name)
    rows = rows_of(f"{name}.jsonl")
    assert json.loads(json.dumps(module.arms_table(rows, *module.COMPARED[name]))) == committed
    assert [row["arm"] for row in committed["rows"]] == arms
    second = {row["id"] for row in rows_of(f"{LAST}.jsonl") if row["axis"] == "unsafe"}
    unsafe = {}
    for arm in arms:
        own = [row for row in rows if row["model"] == arm]
        assert {row["id"] for row in own} == second and len(own) == 450
        unsafe[arm] = 100 * sum(row["unfit"] for row in own) / 450
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    for row in committed["rows"]:
        gap = row.get("unfit_less")
        if gap is not None:
            estimate, low, high = (100 * gap[key] for key in ("estimate", "low", "high"))
            assert estimate == pytest.approx(unsafe[row["arm"]] - unsafe["likelihood"])
            assert f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]" in text
    [gap] = [row["unfit_less"] for row in committed["rows"] if row["arm"] == "n-pair"]
    told = readme.format(*(-100 * gap[key] for key in ("estimate", "high", "low")))
    assert told in " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_the_judges_table_is_that_of_the_rows_and_told():
    name = "labelled-judges"
    [committed] = tables_of(name)
    rows = rows_of(f"{name}.jsonl")
    assert json.loads(json.dumps(module.arms_table(rows, *module.COMPARED[name]))) == committed
    others = {row["id"] for file in ("labelled-test", LAST) for row in rows_of(f"{file}.jsonl")}
    ids = {row["id"] for row in rows}
    assert len(ids) == 321 and len(rows) == 3 * 321 and not ids & others
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    for row in committed["rows"]:
        for column in ("unfit", "answers"):
            found = {key: 100 * row[column][key] for key in ("estimate", "low", "high")}
            assert "{estimate:.1f} [{low:.1f}, {high:.1f}]".format(**found) in text
    gap = committed["rows"][-1]["unfit_less"]
    told = "{:+.1f} points unsafe [{:+.1f}, {:+.1f}], too small to conclude"
    assert told.format(*(100 * gap[key] for key in ("estimate", "low", "high"))) in text
