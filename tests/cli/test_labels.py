"""``prosocial labels`` and ``evaluate --labels`` as users type them, on tiny random models."""

import json

import lxml.html
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.statistics.correction import corrected_rate


def prosocial(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def place(words_datapath):
    """The data path, and the folder of the run and its sheets."""
    return words_datapath


@pytest.fixture(scope="module")
def evaluate(place, tiny_backbones):
    """``evaluate(*flags)``: the log, the summary and the output of a run into one folder."""

    def run(*flags):
        models = [f"{name}={tiny_backbones[of]}" for name, of in (("A", "llama"), ("B", "gpt2"))]
        done = prosocial(
            *["evaluate", "--datapath", place, "--out", place / "run", "--max-tokens", "12"],
            *["--model", models[0], "--model", models[1], "--limit", "40", "--split", "valid"],
            *["--suite", "adversarial", "--suite", "casual", "--judge", "words"],
            *["--judge", "over-caution=words", "--report", place / "report.html", *flags],
        )
        assert done.exit_code == 0, done.output
        log = [json.loads(x) for x in (place / "run" / "log.jsonl").read_text().splitlines()]
        return log, json.loads((place / "run" / "summary.json").read_text()), done.output

    return run


@pytest.fixture(scope="module")
def log(evaluate):
    return evaluate()[0]


def judge_says(log, axis, kind):
    """(suite, context, reply) -> the verdict of a kind of judge."""
    found = {}
    for record in log:
        for judge, judgement in record["judgements"].get(axis, {}).items():
            if judge.startswith(kind):
                key = record["suite"], "\n".join(record["context"]), record["reply"]
                found[key] = judgement["p_unsafe"] >= 0.5
    return found


def label(file, function, name):
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for i, row in enumerate(rows):
        row |= {name: function(i, row), "labeller": "Test model 1"}
    target = file.with_name(f"{file.stem}-{name}.jsonl")
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def labelled_sheet(place, axis, n, first, second):
    sheet = place / f"{axis}-{n}.jsonl"
    sheet.unlink(missing_ok=True)
    done = prosocial(
        *["labels", "export", "--log", place / "run" / "log.jsonl", "--axis", axis],
        *["--n", n, "--out", sheet],
    )
    assert f"{n} replies: {sheet}" in done.output and "GUIDELINES.md" in done.output
    both = place / f"{axis}-both.jsonl"
    both.unlink(missing_ok=True)
    copies = label(sheet, first, "label_1"), label(sheet, second, "label_2")
    done = prosocial("labels", "merge", *copies, "--out", both)
    assert done.exit_code == 0 and f"{n} replies" in done.output
    return both


def test_judges_against_labels_by_hand(place, evaluate, log):
    says = judge_says(log, "unsafe", "words")

    def truth(i, row):
        """As the judge, but for every fifth row."""
        verdict = says[row["suite"], "\n".join(row["context"]), row["reply"]]
        return verdict != (i % 5 == 0)

    sheet = labelled_sheet(
        place, "unsafe", 60, truth, lambda i, row: truth(i, row) != (i % 20 == 1)
    )
    rows = [json.loads(line) for line in sheet.read_text("utf-8").splitlines()]
    assert not {"model", "judgements"} & rows[0].keys()
    assert {row["suite"] for row in rows} == {"adversarial"}

    again, summary, output = evaluate("--labels", sheet)
    assert again == log
    [entry] = summary["labels"]
    assert (entry["axis"], entry["n"], entry["agreed"]) == ("unsafe", 60, 57)
    assert entry["labellers"] == ["Test model 1"]
    labels = [[row[name] for row in rows] for name in ("label_1", "label_2")]
    assert entry["kappa"]["estimate"] == pytest.approx(cohen_kappa_score(*labels))
    assert sum(found["n"] for found in entry["models"].values()) >= 57  # the same words: both

    agreed = [row for row in rows if row["label_1"] == row["label_2"]]
    pairs = [(says[r["suite"], "\n".join(r["context"]), r["reply"]], r["label_1"]) for r in agreed]
    sensitivity = [said for said, unfit in pairs if unfit]
    specificity = [not said for said, unfit in pairs if not unfit]
    [quality] = [q for q in summary["judge_quality"] if q["against"] == "labels"]
    assert quality["n"] == 57 and quality["judge"].startswith("words")
    for name, found in (("sensitivity", sensitivity), ("specificity", specificity)):
        assert quality[name]["estimate"] == pytest.approx(sum(found) / len(found))

    results = {(r["model"], r["suite"]): r["all"]["rates"] for r in summary["results"]}
    corrected = {(c["model"], c["suite"]): c for c in summary["corrected"]}
    assert corrected.keys() == {("A", "adversarial"), ("B", "adversarial")}  # as was labelled
    counts = [(sum(found), len(found)) for found in (sensitivity, specificity)]
    for key, found in corrected.items():
        rate = results[key]["unsafe"][quality["judge"]]
        expected = corrected_rate((rate["hits"], rate["judged"]), *counts)
        if quality["youden"]["low"] <= 0 or expected is None:
            assert found["rate"] is None and found["reason"]
        else:
            assert found["rate"]["estimate"] == pytest.approx(expected.estimate)
            assert found["reason"] is None
    assert any(found["rate"] for found in corrected.values())

    assert "corrected, %" in output
    for words in ("Replies as labelled", "unsafe: labelled by Test model 1.", "sens. + spec. - 1"):
        assert words in output
    assert "Judges against people's labels" in output  # apart from
    assert "Judges against labelled replies" in output
    page = lxml.html.document_fromstring((place / "report.html").read_text("utf-8"))
    text = page.text_content()
    assert "60 replies to adversarial were labelled twice on unsafe by Test model 1, not by" in text
    assert "against people's labels in adversarial" in text
    assert "against 57 labelled replies to adversarial" in text
    headers = [th.text_content() for th in page.xpath("//th[@scope='col']")]
    assert "corrected, %" in headers


def test_a_judge_that_tells_nothing_corrects_nothing(place, evaluate, log):
    sheet = labelled_sheet(
        place, "over-caution", 40, lambda i, r: i % 2 == 0, lambda i, r: i % 2 == 0
    )
    _, summary, output = evaluate("--labels", sheet)
    by_judge = {q["judge"]: q for q in summary["judge_quality"] if q["against"] == "labels"}
    assert len(by_judge) == 2
    rules = next(q for judge, q in by_judge.items() if judge.startswith("preachy"))
    assert rules["youden"]["low"] <= 0
    for found in summary["corrected"]:
        if found["judge"] == rules["judge"]:
            assert found["rate"] is None
            assert "not clearly above 0" in found["reason"]
    assert "of A, B is not corrected: sensitivity + specificity - 1 is" in output
    assert "not clearly above 0" in (place / "report.html").read_text("utf-8")


def test_labels_of_another_run_are_refused(place, evaluate, log, tmp_path):
    sheet = labelled_sheet(place, "unsafe", 20, lambda i, r: True, lambda i, r: True)
    other = tmp_path / "other.jsonl"
    other.write_text(sheet.read_text("utf-8").replace('"id": "unsafe-', '"id": "unsafe-f'))
    with pytest.raises(UserError, match="--labels: none of the 20 replies labelled on unsafe"):
        evaluate("--labels", other)


def test_two_judges_of_an_axis(place, evaluate, log):
    _, summary, output = evaluate()
    [entry] = summary["kappas"]
    assert (entry["suite"], entry["axis"], entry["missing"]) == ("casual", "over-caution", 0)
    words, rules = (judge_says(log, "over-caution", kind) for kind in ("words", "preachy"))
    assert entry["n"] == 80
    keys = [
        (r["suite"], "\n".join(r["context"]), r["reply"]) for r in log if r["suite"] == "casual"
    ]
    assert entry["both"] == sum(words[key] and rules[key] for key in keys)
    assert entry["only_first"] == sum(words[key] and not rules[key] for key in keys)
    expected = cohen_kappa_score([words[k] for k in keys], [rules[k] for k in keys])
    assert entry["kappa"]["estimate"] == pytest.approx(expected)
    assert "Two judges on the same replies" in output and "corrected, %" not in output
    text = lxml.html.document_fromstring((place / "report.html").read_text("utf-8")).text_content()
    assert "Two judges of over-caution on 80 replies to casual" in text


def test_mistakes(place, log, tmp_path):
    run_log = place / "run" / "log.jsonl"
    other = tmp_path / "other.jsonl"
    export = ["labels", "export", "--axis", "unsafe", "--log"]
    with pytest.raises(UserError, match=r"--n 5000: the log has .* give --n"):
        prosocial(*export, run_log, "--n", 5000, "--out", tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="--n 0: must be at least 1"):
        prosocial(*export, run_log, "--n", 0, "--out", tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"--log .*nowhere: no such file; give log.jsonl"):
        prosocial(*export, tmp_path / "nowhere", "--out", tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="nowhere: no such file or folder; check the path"):
        prosocial("labels", "merge", tmp_path / "nowhere", other, "--out", tmp_path / "a.jsonl")
    (tmp_path / "full.jsonl").write_text("labels of a day's work\n")
    with pytest.raises(UserError, match=r"--out .*full.jsonl: is there already"):
        prosocial(*export, run_log, "--n", 5, "--out", tmp_path / "full.jsonl")
    with pytest.raises(UserError, match=r"--out .*full.jsonl: is there already"):
        prosocial("labels", "merge", other, other, "--out", tmp_path / "full.jsonl")
    assert (tmp_path / "full.jsonl").read_text() == "labels of a day's work\n"
    other.write_text('{"model": "m"}\n')
    with pytest.raises(
        UserError, match=r"other.jsonl, line 1: suite: Field required; run prosocial"
    ):
        prosocial(*export, other, "--n", 5, "--out", tmp_path / "a.jsonl")
    other.write_text('{"model": \n')
    with pytest.raises(UserError, match=r"other.jsonl, line 1: .*; run prosocial evaluate again"):
        prosocial(*export, other, "--n", 5, "--out", tmp_path / "a.jsonl")
    prosocial(*export, run_log, "--n", 5, "--out", tmp_path / "empty.jsonl")
    evaluating = ["evaluate", "--suite", "casual", "--model", "no/such", "--out", tmp_path / "o"]
    with pytest.raises(UserError, match=r"empty.jsonl, line 1: field 'label_1' is empty"):
        prosocial(*evaluating, "--datapath", place, "--labels", tmp_path / "empty.jsonl")
