"""``evaluate`` and ``audit`` from Python."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from parlai_prosocial import audit, evaluate
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.evaluation.results import summary as summaries
from parlai_prosocial.evaluation.results.folder import Evaluation

BEFORE = Path(__file__).parent / "fixtures" / "before_the_rooms"
"""Two tiny models, own data, labels, and the run that the code before the rooms made of them."""
REPLIES = {"tuned": "models/tuned", "base": "models/base"}
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder in which that run was made, its models named as they were then."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    words = tmp_path / "data" / "OffensiveLanguage"
    words.mkdir(parents=True)
    shutil.copy(BEFORE / "words" / "OffensiveLanguage.txt", words)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def again(**more):
    """The call that is the command of the old run."""
    judges = ["words", "over-caution=words"]
    given = {"out": "run", "labels": ["sheet.jsonl"], "max_tokens": 10, "datapath": "data"}
    return evaluate(REPLIES, "rows.jsonl", judges, **given | more)


def comparable(file):
    """A summary's text without what differs between runs, its numbers apart.

    Replies and likelihoods are read from the old journals, but a bootstrap sums in another order on
    another CPU, and Wilson's formula is scipy's now: numbers may differ below 1e-12.
    """
    summary = json.loads(file.read_text("utf-8"))
    del summary["command"], summary["environment"]
    del summary["suites"]["rows.jsonl"]["about"]  # said that rows without a split are all taken
    # Since then differences are labelled for each two models, paired where they can be.
    for labelled in summary.get("labels", []):
        labelled.pop("differences", None)
    for table in summary["tables"]:
        if table["title"] == "Replies as labelled":
            table["notes"] = table["notes"][1:]
            for row in table["rows"]:
                row.pop("gap", None)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    return NUMBER.sub("number", text), [float(number) for number in NUMBER.findall(text)]


def test_an_old_run_goes_on_and_has_the_same_summary(place, monkeypatch):
    def never(*arguments, **more):
        raise AssertionError("asked again")

    monkeypatch.setattr("parlai_prosocial.engines.engine.TransformersEngine.sample", never)
    monkeypatch.setattr("parlai_prosocial.evaluation.answers.score_replies", never)
    monkeypatch.setattr("parlai_prosocial.evaluation.answers.judge_each", never)
    found = again()
    assert (place / "run" / "log.jsonl").read_bytes() == (BEFORE / "run/log.jsonl").read_bytes()
    text, numbers = comparable(place / "run" / "summary.json")
    old_text, old_numbers = comparable(BEFORE / "run" / "summary.json")
    assert text == old_text
    assert numbers == pytest.approx(old_numbers, abs=1e-12, rel=1e-12)
    assert len(numbers) > 500 and found.summary["corrected"][0]["rate"]


def test_the_result(place, tmp_path):
    found = again(report="page.html")
    assert str(found).startswith("rows.jsonl: replies as judged\n")
    assert "\nDifferences\n" in str(found)
    assert len(found.records) == 88 and found.faults == []
    assert Path("page.html").read_text("utf-8").startswith("<!DOCTYPE html>")

    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    judge = next(j["name"] for j in found.summary["judges"] if j["axis"] == "unsafe")
    [row] = table[(table.model == "tuned") & (table.axis == "unsafe")].to_dict("records")
    assert row["judge"] == judge and row["judged"] == 44
    assert row["rate"] == row["hits"] / 44 and row["low"] < row["rate"] < row["high"]

    found.save("elsewhere")
    for name in ("log.jsonl", "summary.json"):
        assert Path("elsewhere", name).read_bytes() == Path("run", name).read_bytes()
    opened = Evaluation.load("elsewhere")
    assert opened.summary == json.loads(json.dumps(found.summary))
    assert opened.records == found.records and str(opened) == str(found)


def test_without_a_folder_nothing_is_kept(place):
    before = sorted(Path().rglob("*"))
    found = evaluate(REPLIES, "rows.jsonl", limit={"": 2}, max_tokens=4, datapath="data")
    assert found.folder is None and len(found.records) == 4
    assert found.summary["command"].startswith("parlai_prosocial.evaluate({'tuned': 'models/tuned'")
    kept = {path for path in Path().rglob("*") if "parlai_prosocial" not in path.parts}
    assert kept <= set(before)  # but for the verified copy of the rows


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"limit": 0}, "^limit 0: must be at least 1"),
        ({"max_tokens": 0}, "^max_tokens 0: must be at least 1"),
        ({"max_missing": 1}, "^max_missing 1: give a share"),
        ({"split": "train"}, "^split train: use valid or test"),
        ({"suites": ["casul"]}, "^suites casul: neither a file nor a suite"),
        ({"judges": "oracle"}, "^judges oracle: use classifier:MODEL_FILE"),
        ({"models": []}, "^models: none is given"),
        ({"models": ["models/base", "a=models/base"]}, "^models: the same one twice"),
    ],
)
def test_errors_name_the_argument(place, more, message):
    given = {"models": REPLIES, "suites": "rows.jsonl", "datapath": "data"} | more
    for call in (evaluate, audit):
        with pytest.raises(UsageError, match=message):
            call(**given)
    assert not Path("runs").exists()


def test_a_setting_that_does_not_exist():
    with pytest.raises(TypeError, match="beams"):
        evaluate(REPLIES, "casual", beams=4)


@pytest.mark.parametrize("step", ["tables", "label_entries"])
def test_what_was_found_is_written_before_it_is_told(place, monkeypatch, step):
    def fails(*arguments):
        raise KeyError("a hole")

    module = {
        "tables": summaries,
        "label_entries": "parlai_prosocial.evaluation.validation.labels.entries",
    }[step]
    if isinstance(module, str):
        monkeypatch.setattr(f"{module}.{step}", fails)
    else:
        monkeypatch.setattr(module, step, fails)
    shutil.rmtree("run")
    with pytest.raises(KeyError, match="a hole"):
        again()
    found = Evaluation.load("run")
    assert len(found.records) == 88 and len(found.summary["results"]) == 2
    found.write_report("page.html")  # what there is can be looked at


def test_a_model_without_labels_in_one_of_two_suites(place):
    """The table has a hole there and says so; the run is whole."""
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    Path("more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[20:30]))
    shutil.rmtree("run")
    suites = ["rows.jsonl", "more.jsonl"]
    found = evaluate(REPLIES, suites, max_tokens=10, datapath="data", out="run")
    sheet = [json.loads(line) for line in Path("sheet.jsonl").read_text().splitlines()]
    from parlai_prosocial.evaluation.validation.labels.sheets import reply_id

    record = next(
        r
        for r in found.records
        if r["suite"] == "more.jsonl" and r["model"] == "base" and "agreement" in r["axes"]
    )
    other = sheet[0] | {
        "id": reply_id("unsafe", record),
        "suite": "more.jsonl",
        "context": record["context"],
        "reply": record["reply"],
        "label_1": True,
        "label_2": True,
    }
    Path("both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*sheet, other]))
    found = evaluate(
        REPLIES, suites, "words", "run", max_tokens=10, datapath="data", labels=["both.jsonl"]
    )
    [entry] = found.summary["labels"]
    assert set(entry["by_suite"]["more.jsonl"]) == {"base"}
    assert "No labelled reply, hence no rate: tuned, more.jsonl on unsafe." in str(found)
    [hole] = [
        row
        for table in found.summary["tables"]
        if table["title"] == "Replies as labelled"
        for row in table["rows"]
        if row["row"] == "tuned, more.jsonl"
    ]
    assert hole["n"] == 0 and hole["unfit"] is None


def test_labels_of_another_run_are_refused_after_all_is_written(place):
    text = Path("sheet.jsonl").read_text("utf-8")
    Path("other.jsonl").write_text(text.replace('"id": "unsafe-', '"id": "unsafe-f'))
    shutil.rmtree("run")
    with pytest.raises(UserError, match=r"^labels: none of the 48 replies"):
        again(labels=["other.jsonl"])
    assert Evaluation.load("run").summary["labels"] == []


def test_on_few_contexts_no_difference_is_called_real(place):
    found = evaluate(
        REPLIES, "rows.jsonl", "words", limit=4, max_tokens=10, datapath="data", out="few"
    )
    assert found.summary["differences"]
    assert all(entry["interval"]["p_value"] is None for entry in found.summary["differences"])
    shown = str(found).partition("\nDifferences\n")[2]
    assert shown.count("too few to conclude") == len(found.summary["differences"]) + 1
    assert "too small" not in shown and "fewer than 20 contexts" in shown
    assert not any("more than chance" in sentence for sentence in found.verdicts)


def test_notes_speak_of_sentinels_only_where_there_are_some(place):
    table = again().summary["tables"][0]
    assert "The last rows are sentinels" in table["notes"][0]
    summary = again().summary | {"sentinels": []}
    assert "sentinels" not in str(summaries.tables(summary)[0]["notes"])


def test_an_audit(place):
    gates = ["overcaution_rate.upper > 0", "unsafe_rate > 0.99"]
    found = audit(REPLIES, "rows.jsonl", "words", fail_if=gates[0], min_n=20, datapath="data")
    assert found.folder == Path("runs/audit-tuned-base")
    assert found.report == found.folder / "report.html" and found.report.exists()
    assert [(gate["model"], gate["failed"]) for gate in found.gates] == [("tuned", True)]
    assert not found.passed and found.undecided is None
    found = audit(REPLIES, "rows.jsonl", "words", fail_if=gates, min_n=20, datapath="data")
    assert "cannot decide it on rows.jsonl" in found.undecided and not found.passed
    assert Evaluation.load(found.folder).summary["gates"] == found.gates != []
    with pytest.raises(UsageError, match=r"^fail_if 'unsafe_rate > 0.1': only 44 contexts"):
        audit(REPLIES, "rows.jsonl", "words", fail_if="unsafe_rate > 0.1", datapath="data")
