"""``prosocial audit`` and ``prosocial report`` as users type them, on tiny random models."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation import axis_judges
from parlai_prosocial.evaluation.plan import label_models
from parlai_prosocial.evaluation.suites.suite import Sources, load_suite
from parlai_prosocial.judges.judge import Judgement


class KnowsPeople:
    """A judge that is right about people's replies; of all others it calls the short ones unsafe.

    What ``fails`` says yes to it cannot judge.
    """

    name = "knows-people@1"

    def __init__(self, datapath):
        contexts = load_suite("adversarial", Sources(str(datapath))).contexts
        self.unfit = {reply for context in contexts for reply in context.unfit}
        self.fitting = {reply for context in contexts for reply in context.fitting}
        self.fails = lambda reply: False

    def judge(self, contexts, replies):
        return [None if self.fails(reply) else self._judge(reply) for reply in replies]

    def _judge(self, reply):
        unsafe = len(reply) < 20
        if reply in self.unfit or reply in self.fitting:
            unsafe = reply in self.unfit
        return Judgement(0.8 if unsafe else 0.3, "unsafe" if unsafe else "ok")


@pytest.fixture(scope="module")
def datapath(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def judge(datapath):
    """What ``--judge words`` opens."""
    found = KnowsPeople(datapath)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axis_judges, "open_judge", lambda *arguments: found)
        yield found


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder, so that every run asks for new things only."""
    return tmp_path_factory.mktemp("audit") / "out"


@pytest.fixture(scope="module")
def run(tiny_backbones, datapath, judge, out):
    """``run(*flags)``: the result of an audit of two tiny models, judged."""

    def audit(*flags, models=("tuned=llama", "base=t5"), judges=("words",), limit="12"):
        arguments = ["audit", "--datapath", str(datapath), "--limit", limit, "--max-tokens", "12"]
        arguments += ["--min-n", "4", *([] if "--out" in flags else ["--out", str(out)]), *flags]
        for model in models:
            label, name = model.split("=")
            arguments += ["--model", f"{label}={tiny_backbones[name]}"]
        for name in judges:
            arguments += ["--judge", name]
        return CliRunner().invoke(cli, arguments)

    return audit


@pytest.fixture(scope="module")
def audited(run, out):
    done = run()
    assert done.exit_code == 0, done.output
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    return done.stdout, summary, log


def test_one_command_gives_tables_a_verdict_and_a_report(audited, out):
    output, summary, log = audited
    assert list(summary["suites"]) == ["adversarial", "casual", "safe_but_scary"]
    assert {record["model"] for record in log} == {"tuned", "base"}
    assert "\nadversarial: replies as judged\n" in f"\n{output}"
    assert f"Report: {(out / 'report.html').as_uri()}" in output
    assert "unsafe: tuned " in output
    report = (out / "report.html").read_text("utf-8")
    assert report.startswith("<!DOCTYPE html>")
    assert "knows-people@1" in report and "source" in summary["results"][0]["groups"]


def test_the_report_is_made_from_summary_and_log_alone(audited, out, tmp_path):
    first = (out / "report.html").read_text("utf-8")
    for name in ("summary.json", "log.jsonl"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    done = CliRunner().invoke(cli, ["report", "--run", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output == f"Report: {(tmp_path / 'report.html').as_uri()}\n"
    assert (tmp_path / "report.html").read_text("utf-8") == first


def test_gates(run, audited, out):
    _, summary, _ = audited
    rates = {
        (result["model"], result["suite"]): result["all"]["rates"] for result in summary["results"]
    }
    tuned = rates["tuned", "adversarial"]["unsafe"]["knows-people@1"]["rate"]
    just_below, just_above = tuned["high"] - 1e-6, tuned["high"] + 1e-6
    passed = run("--fail-if", f"adversarial:unsafe_rate.upper > {just_above}")
    assert passed.exit_code == 0, passed.output
    assert (
        f"passed: adversarial:unsafe_rate.upper > {just_above}: {tuned['high']:.4f} (tuned on"
        in (passed.output)
    )
    failed = run(
        *("--fail-if", f"adversarial:unsafe_rate.upper > {just_below}"),
        *("--fail-if", "casual:overcaution_rate > 0.99"),
    )
    assert failed.exit_code == 1
    assert "FAILED: adversarial:unsafe_rate.upper" in failed.output
    assert "passed: casual:overcaution_rate > 0.99" in failed.output
    assert "(base on" not in failed.output  # the reference is not released
    gates = json.loads((out / "summary.json").read_text("utf-8"))["gates"]
    assert [gate["failed"] for gate in gates] == [True, False]
    assert "FAILED" in (out / "report.html").read_text("utf-8")


def test_a_gate_counts_what_is_missing_as_unsafe(run, audited, judge, tmp_path):
    replies = {r["reply"] for r in audited[2] if r["suite"] == "casual" and r["model"] == "tuned"}
    missing = set(sorted(replies)[:6])
    judge.fails = missing.__contains__
    try:
        flags = ("--suite", "casual", "--max-missing", "0.9", "--out", str(tmp_path / "other"))
        done = run(*flags, "--fail-if", "unsafe_rate >= 0.5", models=("tuned=llama",))
    finally:
        judge.fails = lambda reply: False
    assert done.exit_code == 1, done.output
    [gate] = json.loads((tmp_path / "other" / "summary.json").read_text("utf-8"))["gates"]
    assert (gate["n"], gate["failed"]) == (12, True) and gate["missing"] >= 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fail-if", "unsafe_rate > 5"], "the limit is a share from 0 to less than 1"),
        (["--fail-if", "rudeness > 0.1"], "no metric rudeness"),
        (["--fail-if", "mic:unsafe_rate > 0.1"], "suite mic is not run"),
        (["--fail-if", "unsafe_rate > 0.1", "--min-n", "100"], "only 12 contexts of adversarial"),
        (["--limit", "many"], "--limit many: must be at least 1, a whole number"),
        (["--limit", "mic:5"], "--limit: no suite mic here"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--suite", "nowhere"], "--suite nowhere: neither a file nor a suite"),
    ],
)
def test_what_makes_no_sense_ends_with_status_2_before_anything_is_run(
    run, flags, message, monkeypatch
):
    monkeypatch.setattr("parlai_prosocial.evaluation.run._carried_out", None)
    done = run(*flags)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_without_a_judge_what_is_unsafe_is_not_judged(run, audited, caplog):
    done = run("--fail-if", "casual:unsafe_rate > 0.1", judges=())
    assert done.exit_code == 2
    assert "nobody judges what is unsafe; name a judge with --judge KIND:WHERE" in done.output
    done = run(judges=())
    assert done.exit_code == 0
    assert "No --judge of what is unsafe was given" in caplog.text
    assert "What is unsafe was not judged: give a --judge." in done.output


def test_a_gate_by_a_judge_that_misorders_the_sentinels_is_refused(run, audited, judge, tmp_path):
    judge.name, judge.unfit, judge.fitting = "knows-nobody@1", judge.fitting, judge.unfit
    try:
        done = run("--fail-if", "adversarial:unsafe_rate > 0.99")
    finally:
        judge.name, judge.unfit, judge.fitting = "knows-people@1", judge.fitting, judge.unfit
    assert done.exit_code == 2
    assert "knows-nobody@1 cannot decide it on adversarial" in " ".join(done.output.split())
    assert "Report: " in done.output  # all is written before it is refused


def test_evaluate_writes_the_report_too(audited, out, datapath, tiny_backbones, tmp_path):
    file = tmp_path / "new" / "page.html"
    arguments = ["evaluate", "--datapath", str(datapath), "--suite", "casual", "--limit", "12"]
    arguments += ["--max-tokens", "12", "--out", str(out), "--report", str(file)]
    arguments += ["--model", f"only={tiny_backbones['llama']}"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and f"Report: {file.as_uri()}" in done.stdout
    assert "Only only was looked at" in file.read_text("utf-8")


def test_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert label_models(["a=b", "c=http://h/v1#m=1"]) == {"a=b": "a=b", "c": "http://h/v1#m=1"}
    assert label_models(["zero-shot = zoo:prosocial/x"]) == {"zero-shot": "zoo:prosocial/x"}
    for models in (["x", "x"], ["a=x", "a=y"], ["a=x", "b=x"], ["x", "b=x"]):
        with pytest.raises(UserError, match="--model: the same one twice"):
            label_models(models)


def test_runs_that_no_report_can_be_made_of(tmp_path):
    def report():
        CliRunner().invoke(cli, ["report", "--run", str(tmp_path)], catch_exceptions=False)

    with pytest.raises(UserError, match=r"no summary.json; give the --out of a finished"):
        report()
    (tmp_path / "summary.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match=r"no log.jsonl"):
        report()
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"summary.json: format: Input should be 1"):
        report()
    (tmp_path / "summary.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"summary.json: models: Field required; run prosocial"):
        report()
    lists = ("models", "judges", "results", "differences", "misordered", "judge_quality", "tables")
    summary = {"format": 1, "suites": {}, **{key: [] for key in lists}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"log.jsonl, line 1: model: Field required"):
        report()
    (tmp_path / "log.jsonl").write_text('{"a": \n')
    with pytest.raises(UserError, match=r"log.jsonl, line 1: Invalid JSON: EOF"):
        report()
