import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from parlai_prosocial.data.labelled import AXES
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.validation.labels.sheets import (
    GUIDELINES,
    draw,
    merge,
    read_labels,
    read_sheet,
    reply_id,
    sheet_text,
)

MODELS = ("base", "mle", "two-step")


def record(model, suite, number, label, axes, reply=None):
    return {
        "model": model,
        "suite": suite,
        "id": f"{suite}:{number}",
        "context": ["Hi!", f"turn {number} of {suite}"],
        "label": label,
        "axes": axes,
        "reply": f"reply {number} in {suite}, {hash_of(model)}" if reply is None else reply,
    }


def hash_of(model):
    return sum(model.encode())


@pytest.fixture
def log():
    records = []
    for model in MODELS:
        for i in range(60):
            label = ("Toxicity Agreement", "Risk Ignorance", "Biased Opinion")[min(2, i // 5)]
            axes = ["unsafe"] + ["agreement"] * (i < 5)
            records.append(record(model, "adversarial", i, label, axes))
            records.append(record(model, "casual", i, "__casual__", ["over-caution", "unsafe"]))
        for i in range(30):
            records.append(record(model, "safe_but_scary", f"s{i}", "safe", ["over-caution"]))
            twin = record(model, "safe_but_scary", f"u{i}", "unsafe", ["unsafe", "agreement"])
            records.append(twin)
    return records


def models_of(rows, log, axis):
    ids = {reply_id(axis, r): r for r in log if axis in r["axes"]}
    return [ids[row.id] for row in rows]


def test_a_sheet_is_blind_and_leads_back(log):
    rows = draw(log, "unsafe", 60, 0)
    text = sheet_text(rows)
    assert not any(model in text for model in MODELS)
    for row, source in zip(rows, models_of(rows, log, "unsafe"), strict=True):
        assert (row.context, row.reply) == (source["context"], source["reply"])
        assert (row.label_1, row.label_2, row.labeller, row.agreed) == (None, None, None, None)
    assert draw(log, "unsafe", 60, 0) == rows != draw(log, "unsafe", 60, 1)
    order = [source["model"] for source in models_of(rows, log, "unsafe")]
    assert max(Counter(pairwise(order)).values()) < 20  # shuffled


def test_spread_evenly_over_models_and_categories(log):
    rows = models_of(draw(log, "unsafe", 96, 0), log, "unsafe")
    assert set(Counter(r["model"] for r in rows).values()) == {32}
    by_label = Counter((r["suite"], r["label"]) for r in rows)
    # Two categories have five contexts only; the others share what these lack.
    assert by_label["adversarial", "Toxicity Agreement"] == 15
    assert by_label["adversarial", "Risk Ignorance"] == 15
    assert by_label["adversarial", "Biased Opinion"] == 33
    assert by_label["safe_but_scary", "unsafe"] == 33
    assert "casual" not in {r["suite"] for r in rows}

    rows = models_of(draw(log, "over-caution", 60, 0), log, "over-caution")
    assert Counter(r["suite"] for r in rows) == {"casual": 30, "safe_but_scary": 30}
    assert "unsafe" not in {r["label"] for r in rows}
    rows = models_of(draw(log, "agreement", 30, 0), log, "agreement")
    assert {r["label"] for r in rows} == {"Toxicity Agreement", "unsafe"}


def test_every_model_is_labelled_on_the_same_contexts(log):
    missing = [r for r in log if not (r["model"] == "mle" and r["id"].endswith(("0", "5")))]
    for n, whole in ((96, 96), (97, 96), (98, 96)):
        rows = models_of(draw(missing, "unsafe", n, 0), missing, "unsafe")
        assert len(rows) == whole
        contexts = {m: {(r["suite"], r["id"]) for r in rows if r["model"] == m} for m in MODELS}
        assert len(contexts["base"]) == 32
        assert contexts["base"] == contexts["mle"] == contexts["two-step"]
    with pytest.raises(UserError, match="--n 2: each context has more replies"):
        draw(log, "unsafe", 2, 0)


def test_equal_and_missing_replies():
    same = [record(model, "casual", 1, "", ["over-caution"], "Oh.") for model in MODELS]
    none = record("base", "casual", 2, "", ["over-caution"]) | {"reply": None}
    [row] = draw([*same, none], "over-caution", 1, 0)
    assert row.reply == "Oh."
    with pytest.raises(UserError, match=r"--n 2: the log has 1 different replies.*give --n 1"):
        draw([*same, none], "over-caution", 2, 0)
    with pytest.raises(UserError, match="give the log of suites that are judged on it"):
        draw(same, "agreement", 2, 0)


def labelled(rows, label, function, **more):
    return [{**json.loads(sheet_text([r])), label: function(i), **more} for i, r in enumerate(rows)]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_two_labellings_become_one(log, tmp_path):
    rows = draw(log, "over-caution", 21, 0)
    one = labelled(rows, "label_1", lambda i: i < 8, labeller="A model")
    two = labelled(rows, "label_2", lambda i: i < 6, labeller="Another")[::-1]
    first = read_sheet(write(tmp_path / "1.jsonl", one), ["label_1"])
    second = read_sheet(write(tmp_path / "2.jsonl", two), ["label_2"])
    merged = merge(first, second)
    (tmp_path / "both.jsonl").write_text(sheet_text(merged))
    [(axis, read)] = read_labels([tmp_path / "both.jsonl"]).items()
    assert axis == "over-caution" and read == merged
    assert [row.label_1 for row in read] == [True] * 8 + [False] * 13
    assert [row.agreed is None for row in read] == [False] * 6 + [True] * 2 + [False] * 13
    assert read[0].agreed.unfit and not read[-1].agreed.unfit
    assert read[0].agreed.context == "\n".join(rows[0].context)
    assert {row.labeller for row in read} == {"A model; Another"}

    with pytest.raises(UserError, match="hold other replies"):
        merge(first, second[1:])
    two[0]["reply"] = "changed"
    with pytest.raises(UserError, match="the two sheets differ in its text"):
        merge(first, read_sheet(write(tmp_path / "2.jsonl", two), ["label_2"]))
    with pytest.raises(UserError, match=r"--labels .*both.jsonl: over-caution-.* in another sheet"):
        read_labels([tmp_path / "both.jsonl"] * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_2": None}, "line 2: field 'label_2' is empty; fill it in"),
        ({"label_1": "yes"}, "line 2: field 'label_1' is 'yes'; give true or false"),
        ({"label_1": 1}, "line 2: field 'label_1' is '1'; give true or false"),
        ({"labeller": ""}, "line 2: field 'labeller' is empty"),
        ({"axis": "nice"}, "line 2: field 'axis' is 'nice'; it must be one of unsafe"),
        ({"context": "Hi"}, None),
        ({"id": "x"}, "line 2: field 'id' comes twice"),
        ({"reply": ""}, None),
        ({"severity_1": 2, "severity_2": 1, "answers_1": False, "guidelines": "a1"}, None),
        ({"severity_1": 1}, "line 2: field 'severity_1' is 1 and the label true; a reply has"),
        ({"severity_2": 2}, "line 2: field 'severity_2' is 2 and the label false"),
        ({"severity_1": 5}, "line 2: field 'severity_1' is 5; give a whole number from 0 to 4"),
        ({"answers_2": "yes"}, "line 2: field 'answers_2' is 'yes'; give true or false"),
    ],
)
def test_bad_rows_are_named(log, tmp_path, change, message):
    rows = labelled(draw(log, "unsafe", 3, 0), "label_1", lambda i: True)
    rows = [row | {"label_2": False, "labeller": "A model"} for row in rows]
    rows[0]["id"] = "x"
    file = write(tmp_path / "sheet.jsonl", [rows[0], rows[1] | change, rows[2]])
    if message is None:
        assert len(read_sheet(file)) == 3
        return
    with pytest.raises(UserError, match=message):
        read_sheet(file)


def test_sheets_older_than_grades_are_read(log, tmp_path):
    new = {"severity_1", "severity_2", "answers_1", "answers_2", "guidelines"}
    rows = labelled(draw(log, "unsafe", 3, 0), "label_1", lambda i: True, label_2=False)
    old = [{k: v for k, v in row.items() if k not in new} | {"labeller": "M"} for row in rows]
    [*read] = read_sheet(write(tmp_path / "old.jsonl", old))
    assert [(row.id, row.label_1, row.label_2) for row in read] == [
        (row["id"], True, False) for row in rows
    ]
    assert {getattr(row, name) for row in read for name in new} == {None}
    committed = Path(__file__).parents[3] / "benchmarks" / "results" / "labels"
    for file in sorted(committed.glob("*.jsonl")):
        once = file.stem in (
            "generated",
            "generated-2",
            "people",
        )  # labelled in a single pass, most of them
        rows = read_sheet(file, ["label_1"]) if once else read_sheet(file)
        assert len(rows) == file.read_text("utf-8").count("\n") > 100


def test_grades_and_provenance_are_merged_by_pass(log, tmp_path):
    rows = draw(log, "unsafe", 3, 0)
    assert {row.guidelines for row in rows} == {hashlib.sha256(GUIDELINES.read_bytes()).hexdigest()}
    one = labelled(rows, "label_1", lambda i: True, severity_1=3, answers_1=True, labeller="A")
    two = labelled(rows, "label_2", lambda i: False, severity_2=0, answers_2=False, labeller="B")
    for row in two:
        row["guidelines"] = "newer"
    merged = merge(
        read_sheet(write(tmp_path / "1.jsonl", one), ["label_1"]),
        read_sheet(write(tmp_path / "2.jsonl", two), ["label_2"]),
    )
    for row in merged:
        assert (row.severity_1, row.severity_2) == (3, 0)
        assert (row.answers_1, row.answers_2) == (True, False)
        assert (row.labeller, row.guidelines) == ("A; B", f"{rows[0].guidelines}; newer")


def test_the_guidelines_speak_of_every_axis_and_ship_with_the_package():
    text = GUIDELINES.read_text("utf-8")
    assert all(f"\n## {axis}\n" in text for axis in AXES)
    for heading in ("Severity", "Does it answer the turn?"):
        assert f"\n## {heading}\n" in text
    for case in ("off-topic", "garbled", "question", "part"):
        assert text.lower().count(case) >= 3, case
