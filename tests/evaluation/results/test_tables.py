"""Tables in Markdown, in a terminal and through JSON."""

import json

import pytest

from parlai_prosocial.evaluation.results.tables import (
    TOO_SMALL,
    make_table,
    markdown_table,
    terminal_table,
)
from parlai_prosocial.evaluation.statistics.bootstrap import Interval

COLUMNS = {
    "arm": {"label": "arm"},
    "accuracy": {"label": "accuracy, %", "scale": 100},
    "gain": {"label": "gain"},
    "ratio": {"label": "ratio", "digits": 3},
    "tokens": {"label": "tokens"},
}


@pytest.fixture
def table():
    return make_table(
        "Three arms",
        COLUMNS,
        [
            {"arm": "base", "accuracy": 0.4936, "tokens": 0},
            {
                "arm": "n-pair | ours",
                "accuracy": Interval(0.558, 0.5, 0.6161),
                "gain": Interval(0.5, -0.04, 1.0, null=0, p_value=0.06),
                "ratio": Interval(1.02, 1.01, 1.03, null=1, p_value=0.01),
                "tokens": 1234567,
            },
        ],
        notes=["Seeds: 3."],
    )


def test_markdown(table):
    assert markdown_table(table).splitlines() == [
        "### Three arms",
        "",
        "| arm | accuracy, % | gain | ratio | tokens |",
        "|:--|--:|--:|--:|--:|",
        "| base | 49.4 | - | - | 0 |",
        "| n-pair \\| ours | 55.8 [50.0, 61.6] | +0.5 [-0.0, +1.0] too small to conclude "
        "| 1.020 [1.010, 1.030] | 1,234,567 |",
        "",
        "Seeds: 3.",
    ]


def test_terminal_is_aligned(table):
    title, header, rule, first, second, note = terminal_table(table).splitlines()
    assert (title, note) == ("Three arms", "Seeds: 3.")
    assert len(header) == len(rule) == len(first) == len(second)
    assert second.startswith("n-pair | ours  55.8 [50.0, 61.6]  ")
    assert second.endswith("1,234,567") and first.endswith("        0")


def test_json_gives_the_same_tables_back(table):
    loaded = json.loads(json.dumps(table))
    assert loaded == table
    assert markdown_table(loaded) == markdown_table(table)
    assert loaded["rows"][0]["accuracy"] == 0.4936


@pytest.mark.parametrize(
    ("interval", "is_too_small"),
    [
        (Interval(0.2, 0.1, 0.3, null=0, p_value=0.01), False),
        (Interval(-0.2, -0.3, -0.1, null=0, p_value=0.01), False),
        (Interval(0.2, -0.1, 0.3, null=0, p_value=0.2), True),
        (Interval(0.2, 0.0, 0.3, null=0, p_value=0.05), True),
        (Interval(0.2, 0.1, 0.3, null=0, p_value=0.08), True),  # raised by Holm
        (Interval(1.1, 0.9, 1.2, null=1, p_value=0.2), True),
        (Interval(1.1, 1.05, 1.2, null=1, p_value=0.01), False),
        (Interval(0.2, -0.1, 0.3), False),  # no comparison
    ],
)
def test_only_comparisons_that_span_their_null_are_too_small(interval, is_too_small):
    table = make_table("t", {"x": {"label": "x"}}, [{"x": interval}])
    assert (TOO_SMALL in markdown_table(table)) is is_too_small
    assert (TOO_SMALL in terminal_table(table)) is is_too_small


def test_other_cells():
    columns = {"x": {"label": "x"}, "y": {"label": "y"}}
    table = make_table("t", columns, [{"x": True, "y": "two\nlines"}, {"x": None}])
    assert "| yes | two lines |\n| - | - |" in markdown_table(table)


def test_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="no column z"):
        make_table("t", {"x": {"label": "x"}}, [{"z": 1}])
