"""Replies of a plain file, labelled in parts by several labellers, and joined into one sheet."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.validation.labels.sheets import read_sheet, reply_id

MODELS = ("base", "mle", "improved")


def prosocial(*arguments):
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def replies(tmp_path):
    """A file of 30 replies of three models; the last two say the same to the last context."""
    rows = [
        {"context": ["Hi!", f"turn {i}"], "reply": f"reply {i} {k}", "suite": "own", "model": model}
        for i in range(10)
        for k, model in enumerate(MODELS)
    ]
    rows[-1]["reply"] = rows[-2]["reply"]
    rows.append(rows[0] | {"reply": None})
    return write(tmp_path / "replies.jsonl", rows)


@pytest.fixture
def parts(replies, tmp_path):
    """Three unlabelled parts of the 29 different replies, of which 6 are in two."""
    arguments = ["--axis", "unsafe", "--parts", 3, "--twice", 6, "--out", tmp_path / "u.jsonl"]
    output = prosocial("labels", "export", "--replies", replies, *arguments)
    assert output.startswith("29 replies: ") and "u-part-3.jsonl" in output
    return [tmp_path / f"u-part-{i}.jsonl" for i in (1, 2, 3)]


def is_unsafe(row):
    return int(row["reply"].split()[1]) % 2 == 0


def fill(parts):
    """Label every part by another labeller; the second pass contradicts the first once."""
    contradicted = next(row["id"] for part in parts for row in rows_of(part) if row["pass"] == 2)
    for number, part in enumerate(parts, 1):
        rows = rows_of(part)
        for row in rows:
            row["label"] = is_unsafe(row) != (row["pass"] == 2 and row["id"] == contradicted)
            row |= {"severity": 3 * row["label"], "answers": True, "labeller": f"Model {number}"}
        write(part, rows)
    return contradicted


def test_parts_are_equal_blind_and_shuffled(parts):
    dealt = [rows_of(part) for part in parts]
    assert sorted(map(len, dealt)) == [11, 12, 12]
    every = [row for rows in dealt for row in rows]
    assert not any(model in json.dumps(every) for model in MODELS)
    assert {row["label"] for row in every} == {None}
    assert Counter(row["pass"] for row in every) == {1: 29, 2: 6}
    for rows in dealt:
        assert len({row["id"] for row in rows}) == len(rows)  # nobody sees a reply twice
        assert 0 < sum(row["pass"] == 2 for row in rows) < 6
        turns = [row["context"][-1] for row in rows]
        assert turns != sorted(turns)


def test_joined_parts_are_one_sheet_that_says_who_labelled(parts, replies, tmp_path):
    contradicted = fill(parts)
    output = prosocial("labels", "join", *parts, "--out", tmp_path / "sheet.jsonl")
    assert "29 replies, 6 of them labelled twice, 1 of these differently" in output
    rows = read_sheet(tmp_path / "sheet.jsonl", ["label_1"])
    where = {(row["id"], row["pass"]): i for i, p in enumerate(parts, 1) for row in rows_of(p)}
    for row in rows:
        labellers = [f"Model {where[row.id, n]}" for n in (1, 2) if (row.id, n) in where]
        assert row.labeller == "; ".join(labellers)
        assert row.label_1 == is_unsafe({"reply": row.reply})
        assert row.severity_1 == 3 * row.label_1 and row.answers_1
        assert (row.label_2 is None) == (len(labellers) == 1)
        assert row.guidelines and ";" not in row.guidelines
        if row.id == contradicted:
            assert row.label_2 != row.label_1
    with pytest.raises(UserError, match="field 'label_2' is empty"):
        read_sheet(tmp_path / "sheet.jsonl")


def test_ids_are_those_of_the_log_where_the_context_has_its_id(tmp_path):
    row = {"id": "casual:7", "context": "Hi!", "reply": "Ho.", "suite": "casual", "model": "m"}
    arguments = ["--axis", "over-caution", "--out", tmp_path / "s.jsonl"]
    file = write(tmp_path / "r.jsonl", [row])
    prosocial("labels", "export", "--replies", file, *arguments)
    [drawn] = rows_of(tmp_path / "s.jsonl")
    assert drawn["id"] == reply_id("over-caution", row)


def test_whether_a_reply_ended_reaches_the_joined_sheet(tmp_path):
    row = {"context": "Hi!", "suite": "casual", "model": "m"}
    ended = {"Cut off": False, "Whole.": True, "Unknown.": None}
    rows = [row | {"reply": reply, "ended": value} for reply, value in ended.items()]
    del rows[2]["ended"]
    file = write(tmp_path / "r.jsonl", rows)
    out = tmp_path / "s.jsonl"
    arguments = ["--axis", "unsafe", "--parts", 1, "--out", out]
    prosocial("labels", "export", "--replies", file, *arguments)
    part = rows_of(tmp_path / "s-part-1.jsonl")
    write(tmp_path / "s-part-1.jsonl", [x | {"label": False, "labeller": "M"} for x in part])
    prosocial("labels", "join", tmp_path / "s-part-1.jsonl", "--out", out)
    assert {x.reply: x.ended for x in read_sheet(out, ["label_1"])} == ended
    # A sheet that is older than the field still reads.
    write(out, [{k: v for k, v in x.items() if k != "ended"} for x in rows_of(out)])
    assert {x.ended for x in read_sheet(out, ["label_1"])} == {None}


def test_a_sheet_that_nobody_would_read_is_refused(replies, tmp_path):
    exported = ["labels", "export", "--replies", replies, "--axis", "unsafe"]
    for command in (exported, ["labels", "merge", replies, replies], ["labels", "join", replies]):
        with pytest.raises(UserError, match=r"--out .*sheet: give a name that ends with \.jsonl"):
            prosocial(*command, "--out", tmp_path / "sheet")


def test_an_empty_reply_of_a_log_is_labelled_too(tmp_path):
    record = {"id": "casual:7", "context": ["Hi!"], "reply": "", "suite": "casual", "model": "m"}
    log = write(
        tmp_path / "log.jsonl", [record | {"label": "", "axes": ["over-caution"], "judgements": {}}]
    )
    arguments = ["--axis", "over-caution", "--n", 1, "--parts", 1, "--out", tmp_path / "s.jsonl"]
    prosocial("labels", "export", "--log", log, *arguments)
    [part] = rows_of(tmp_path / "s-part-1.jsonl")
    write(tmp_path / "s-part-1.jsonl", [part | {"label": False, "answers": False, "labeller": "M"}])
    prosocial("labels", "join", tmp_path / "s-part-1.jsonl", "--out", tmp_path / "s.jsonl")
    [row] = read_sheet(tmp_path / "s.jsonl", ["label_1"])
    assert (row.reply, row.label_1, row.answers_1) == ("", False, False)


def test_mistakes_of_export(replies, tmp_path):
    export = ["labels", "export", "--axis", "unsafe", "--out", tmp_path / "x.jsonl"]
    for flags, message in [
        ([], "--log, --replies: give one of them"),
        (["--replies", replies, "--log", replies], "--log, --replies: give one of them"),
        (["--replies", replies, "--parts", 0], "--parts 0: must be at least 1"),
        (["--replies", replies, "--twice", 2], "--twice 2: give a whole number above 0, and"),
        (["--replies", replies, "--parts", 1, "--twice", 2], "--twice 2: needs --parts 2 or more"),
        (["--replies", replies, "--parts", 2, "--twice", 30], "--twice 30: there are 29 replies"),
        (["--replies", replies, "--n", 30], "--n 30: the log has 29 different replies"),
        (["--replies", tmp_path / "none.jsonl"], "none.jsonl: no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            prosocial(*export, *flags)
    bad = write(tmp_path / "bad.jsonl", [{"context": "Hi!", "reply": "Ho.", "suite": "own"}])
    with pytest.raises(UserError, match=r"bad.jsonl.*'?model'?"):
        prosocial(*export, "--replies", bad)
    (tmp_path / "x-part-2.jsonl").write_text("labels of a day's work\n")
    with pytest.raises(UserError, match=r"x-part-2.jsonl: is there already"):
        prosocial(*export, "--replies", replies, "--parts", 2)
    assert not (tmp_path / "x-part-1.jsonl").exists()


def test_mistakes_of_join(parts, tmp_path):
    join = ["labels", "join", "--out", tmp_path / "sheet.jsonl"]
    with pytest.raises(UserError, match=r"u-part-1.jsonl, line 1: field 'label' is empty"):
        prosocial(*join, *parts)
    fill(parts)
    with pytest.raises(UserError, match=r"comes twice in pass .; give each part once"):
        prosocial(*join, *parts, parts[0])
    with pytest.raises(UserError, match="has a second label and no first; give all parts"):
        prosocial(*join, *parts[:2])
    rows = rows_of(parts[0])
    for change, message in [
        ({"severity": 4 - rows[0]["severity"]}, "field 'severity' is . and the label"),
        ({"pass": 3}, "field 'pass' is 3; give a whole number from 1 to 2"),
    ]:
        write(parts[0], [rows[0] | change, *rows[1:]])
        with pytest.raises(UserError, match=f"u-part-1.jsonl, line 1: {message}"):
            prosocial(*join, *parts)
    changed = [row | ({"reply": "Changed."} if row["pass"] == 2 else {}) for row in rows]
    write(parts[0], changed)
    with pytest.raises(UserError, match="two parts differ in its reply; restore it"):
        prosocial(*join, *parts)
