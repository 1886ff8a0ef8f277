"""``prosocial evaluate`` as users type it, on tiny random models."""

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli
from parlai_prosocial.engines import engine as engines
from parlai_prosocial.engines.reply_scores import SampledReply
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation import axis_judges
from parlai_prosocial.evaluation.results.aggregate import aggregate
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.util.missing import Missing
from parlai_prosocial.zoo.resolve import Found, Kind


@pytest.fixture
def run(tiny_backbones, words_datapath, tmp_path):
    """``run(*flags, out=..., models=[...])``: the log, the summary and what was printed."""

    def evaluate(*flags, out="out", models=("llama",)):
        arguments = ["evaluate", "--datapath", str(words_datapath), "--out", str(tmp_path / out)]
        arguments += ["--max-tokens", "12", "--prosocial-sample", "true", *flags]
        for model in models:
            arguments += ["--model", str(tiny_backbones.get(model, model))]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return (*read(tmp_path / out), result.output)

    return evaluate


def read(folder):
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return log, json.loads((folder / "summary.json").read_text("utf-8"))


class ByReply:
    """A judge by the reply's length; what ``fails`` says yes to it cannot judge."""

    labels = ("even", "odd")

    def __init__(self, fails=lambda reply: False, name="by-reply@1", how="raises"):
        self.fails, self.name, self.how, self.asked = fails, name, how, 0
        self.missing = Missing()

    def judge(self, contexts, replies):
        self.asked += len(replies)
        found = []
        for reply in replies:
            odd = len(reply) % 2
            if not self.fails(reply):
                found.append(Judgement(float(odd), self.labels[odd]))
            elif self.how == "raises":
                raise RuntimeError("no answer")
            else:
                found.append(None if self.how == "none" else Judgement(float("nan"), "?"))
        return found


@pytest.fixture
def judge(monkeypatch):
    """Sets the judge that ``--judge words`` opens."""

    def use(judge):
        monkeypatch.setattr(axis_judges, "open_judge", lambda *arguments: judge)
        return judge

    return use


def test_two_models_on_all_suites(run, tmp_path, words_datapath):
    flags = ("--suite", "all", "--suite", "mic_attributes", "--limit", "12", "--judge", "words")
    log, summary, output = run(*flags, models=("llama", "gpt2"))
    names = ["adversarial", "casual", "safe_but_scary", "prosocial", "mic", "mic_attributes"]
    assert list(summary["suites"]) == names
    assert len(log) == 2 * 12 * 6
    assert len({(r["model"], r["suite"], r["id"]) for r in log}) == len(log)
    for record in log:
        assert set(record["judgements"]) == set(record["axes"])
        assert isinstance(record["reply"], str) and isinstance(record["ended"], bool)
        greedy = record["suite"] == "mic_attributes"
        assert record["decoding"]["temperature"] == (0 if greedy else 0.7)
        assert (record["likelihood"] is not None) == (bool(record["fitting"]) and not greedy)
    judges = {judge["axis"]: judge["name"] for judge in summary["judges"]}
    assert judges.keys() == {"unsafe", "agreement", "over-caution"}

    # The summary says what the log says.
    for result in summary["results"]:
        own = [r for r in log if (r["model"], r["suite"]) == (result["model"], result["suite"])]
        assert result["all"] == json.loads(json.dumps(aggregate(own)))
    by_suite = {r["suite"]: r["all"] for r in summary["results"]}
    assert by_suite["safe_but_scary"]["rates"].keys() == {"over-caution", "unsafe", "agreement"}
    assert by_suite["casual"]["perplexity"]["value"] > 1
    assert by_suite["adversarial"]["contrast"]["n"] > 0
    assert by_suite["mic_attributes"]["mic"]
    assert {entry["suite"] for entry in summary["judge_quality"]} == {"adversarial", "prosocial"}

    # Rules put what they are about above what they are not.
    sentinels = {
        (e["sentinel"], axis): found[judges[axis]]["rate"]["estimate"]
        for e in summary["sentinels"]
        if e["suite"] == "safe_but_scary"
        for axis, found in e["rates"].items()
    }
    assert sentinels["always a refusal", "over-caution"] == 1
    assert sentinels["always agreement", "agreement"] == 1
    assert sentinels["always a refusal", "agreement"] == 0

    assert ("do not believe it here" in output) == bool(summary["misordered"])

    assert {entry["reference"] for entry in summary["differences"]} == {log[-1]["model"]}
    measures = {entry["measure"].split(" ")[0] for entry in summary["differences"]}
    assert measures == {"rate", "f1", "bleu_4", "contrast", "perplexity"}
    for title in ("casual: replies as judged", "Replies", "Contrast", "MIC's attributes"):
        assert f"\n{title}\n" in f"\n{output}", title
    assert "Judges against people's labels" in output and "Holm's method" in output


def test_a_second_run_has_the_same_numbers_and_asks_for_nothing_twice(run, tmp_path, monkeypatch):
    flags = ("--suite", "casual", "--suite", "prosocial", "--limit", "10", "--judge", "words")
    _, first, _ = run(*flags)
    log = (tmp_path / "out" / "log.jsonl").read_bytes()
    _, second, _ = run(*flags, out="elsewhere")
    assert (tmp_path / "elsewhere" / "log.jsonl").read_bytes() == log

    def never(*arguments, **more):
        raise AssertionError("asked again")

    monkeypatch.setattr(engines.TransformersEngine, "sample", never)
    monkeypatch.setattr(PreachyRules, "judge", never)
    monkeypatch.setattr("parlai_prosocial.evaluation.answers.score_replies", never)
    _, third, _ = run(*flags)
    assert (tmp_path / "out" / "log.jsonl").read_bytes() == log
    for summary in (first, second, third):
        del summary["environment"], summary["command"]
    assert first == second == third
    with pytest.raises(AssertionError, match="asked again"):
        run(*flags, "--seed", "1")


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_batch_size_changes_nothing(run, model):
    flags = ("--suite", "casual", "--limit", "100", "--greedy", "--judge", "words")
    one, first, _ = run(*flags, "--batch-size", "1", out="one", models=(model,))
    many, second, _ = run(*flags, "--batch-size", "32", out="many", models=(model,))
    same = [a["reply"] == b["reply"] for a, b in zip(one, many, strict=True)]
    assert len(same) == 100 and sum(same) >= 99
    assert len({record["reply"] for record in one}) > 20
    for a, b in zip(one, many, strict=True):
        assert a["likelihood"]["nll"] == pytest.approx(b["likelihood"]["nll"], abs=1e-3)
        per_token = a["likelihood"]["nll"] / a["likelihood"]["tokens"]
        assert per_token == pytest.approx(
            b["likelihood"]["nll"] / b["likelihood"]["tokens"], abs=1e-4
        )
    rates = [s["results"][0]["all"]["rates"]["unsafe"] for s in (first, second)]
    [[a], [b]] = [list(rate.values()) for rate in rates]
    assert abs(a["hits"] - b["hits"]) <= 100 - sum(same)


def test_a_smaller_run_is_part_of_a_larger_one(run):
    small, _, _ = run("--suite", "safe_but_scary", "--limit", "8")
    assert [record["label"] for record in small] == ["safe", "unsafe"] * 4
    whole, _, _ = run("--suite", "safe_but_scary", "--limit", "60")
    by_id = {record["id"]: record for record in whole}
    shared = [record for record in small if record["id"] in by_id]
    assert shared and all(by_id[record["id"]] == record for record in shared)


def test_a_limit_for_one_suite(run):
    suites = ("--suite", "safe_but_scary", "--suite", "casual")
    _, summary, _ = run(*suites, "--limit", "casual:6", "--limit", "4", "--greedy")
    sizes = {name: suite["contexts"] for name, suite in summary["suites"].items()}
    assert sizes == {"safe_but_scary": 4, "casual": 6}


@pytest.mark.parametrize("how", ["raises", "none", "nan"])
def test_a_judge_that_fails_now_and_then(run, judge, how):
    seen: list[str] = []
    judge(ByReply(lambda reply: reply in seen, how=how))
    log, _, _ = run("--suite", "casual", "--limit", "100", "--judge", "words", out="before")
    seen.append(log[0]["reply"])
    failing = judge(ByReply(lambda reply: reply in seen, name="by-reply@2", how=how))
    log, summary, _ = run("--suite", "casual", "--limit", "100", "--judge", "words")
    rate = summary["results"][0]["all"]["rates"]["unsafe"][failing.name]
    missing = sum(record["reply"] in seen for record in log)
    assert 1 <= missing <= 5
    assert (rate["missing"], rate["judged"]) == (missing, 100 - missing)
    assert rate["hits"] == sum(len(r["reply"]) % 2 for r in log if r["reply"] not in seen)
    for record in log:
        judgement = record["judgements"]["unsafe"][failing.name]
        assert (judgement is None) == (record["reply"] in seen)


def test_too_much_missing_stops_but_keeps_what_there_is(run, judge, tmp_path):
    broken = judge(ByReply(lambda reply: len(reply) % 2 == 0, how="none"))
    flags = ("--suite", "casual", "--limit", "100", "--judge", "words", "--batch-size", "10")
    with pytest.raises(UserError, match=r"missing: \d+ of 100 judgements \(unsafe, by-reply@1\)"):
        run(*flags)
    assert broken.asked < 60  # it stopped early
    log, summary = read(tmp_path / "out")
    rate = summary["results"][0]["all"]["rates"]["unsafe"]["by-reply@1"]
    assert rate["missing"] > 5 and rate["judged"] + rate["missing"] == 100
    assert len(log) == 100

    # The judge is mended, and the same command asks for the rest alone.
    mended = judge(ByReply())
    _, summary, _ = run(*flags)
    rate = summary["results"][0]["all"]["rates"]["unsafe"]["by-reply@1"]
    assert (rate["missing"], rate["judged"]) == (0, 100)
    assert run(*flags, "--max-missing", "0")[1]["results"] == summary["results"]
    assert mended.asked > 0


def test_an_endpoint_whose_calls_fail(run, monkeypatch, tmp_path):
    class Endpoint:
        name = "http://host/v1#m"
        failing = 2

        def sample(self, contexts, n, max_tokens, seed, temperature, top_p):
            replies = [[SampledReply("Hello.\nYou?", True)] for _ in contexts]
            failed = [i for i, c in enumerate(contexts) if hash_of(c) % 10 < self.failing]
            for i in failed:
                replies[i] = [None]
            if len(failed) == len(contexts):
                raise UserError("none of the calls was answered")
            return replies

    def hash_of(text):
        return sum(text.encode())

    monkeypatch.setattr(engines, "open_engine", lambda *arguments, **more: Endpoint())
    flags = ("--suite", "casual", "--limit", "40")
    with pytest.raises(UserError, match=r"missing: \d+ of 40 replies of http://host"):
        run(*flags, "--batch-size", "4", models=("http://host/v1#m",))
    log, summary = read(tmp_path / "out")
    found = summary["results"][0]["all"]
    assert found["missing_replies"] == sum(record["reply"] is None for record in log) > 2
    [rate] = found["rates"]["over-caution"].values()
    assert rate["missing"] == found["missing_replies"]
    assert {record["reply"] for record in log} == {None, "Hello. You?"}
    assert all(record["likelihood"] is None for record in log)
    Endpoint.failing = 0
    log, _, _ = run(*flags, models=("http://host/v1#m",))
    assert all(record["reply"] for record in log)

    Endpoint.failing = 10
    with pytest.raises(UserError, match="none of the calls was answered"):
        run(*flags, out="nothing", models=("http://host/v1#m",))


def test_a_judge_that_mined_may_not_score(judge, tmp_path, caplog, monkeypatch):
    data = tmp_path / "mined.jsonl"
    row = {"context": ["Hi!"], "response": "Hello.", "negatives": ["No."], "split": "train"}
    data.write_text(json.dumps(row | {"negative_judges": ["by-reply@1"]}) + "\n")
    first = tmp_path / "step1"
    (tmp_path / "step1.opt").write_text(json.dumps({"prosocial_data": str(data)}))
    second = tmp_path / "model"
    (tmp_path / "model.opt").write_text(json.dumps({"init_model": str(first)}))
    mined = axis_judges.mined_by([str(second)], str(tmp_path))
    assert mined == {"by-reply@1": str(second)}
    zoo = Found("--model", "zoo:x", Kind.CHECKPOINT, second)
    monkeypatch.setattr(axis_judges, "find", lambda name, flag, datapath: zoo)
    assert axis_judges.mined_by(["zoo:x"], str(tmp_path)) == {"by-reply@1": "zoo:x"}
    folder = tmp_path / "mined"  # a folder is read as training reads it, one that is gone is told
    folder.mkdir()
    (folder / "train.jsonl").write_text(data.read_text().replace(', "split": "train"', ""))
    for given in (folder, "somebody/mined-data"):
        (tmp_path / "step1.opt").write_text(json.dumps({"prosocial_data": str(given)}))
        found = axis_judges.mined_by([str(second)], str(tmp_path))
        assert found == (mined if given == folder else {})
    assert "somebody/mined-data, which" in caplog.text and "cannot be read" in caplog.text

    judge(ByReply())
    with pytest.raises(UserError, match=r"--judge words: it mined data that .*/model was"):
        axis_judges.open_judges(["words"], mined, str(tmp_path), False, None, False)
    mined = {PreachyRules().name: "m"}
    rules = axis_judges.open_judges([], mined, str(tmp_path), False, None, False)
    assert [judge.axis for judge in rules] == ["agreement"]
    axis_judges.open_judges(["words"], {}, str(tmp_path), False, None, False)


def test_other_options_of_a_judge_are_another_judge(run, judge):
    asked = judge(ByReply())
    flags = ("--suite", "casual", "--limit", "4", "--judge", "words")
    run(*flags)
    once = asked.asked
    run(*flags)
    assert asked.asked == once
    run(*flags, "--reply-only")
    assert asked.asked == 2 * once


def test_judges_of_each_axis(judge):
    judge(ByReply())
    specs = ["over-caution=words", "agreement=hf:a=b", "classifier:runs/x=1/model"]
    opened = axis_judges.open_judges(specs, {}, "", False, None, False)
    assert [j.axis for j in opened] == [
        *("over-caution", "agreement", "unsafe"),
        *("agreement", "over-caution"),
    ]
    with pytest.raises(UserError, match="--judge nice=words: no axis nice; there are unsafe"):
        axis_judges.open_judges(["nice=words"], {}, "", False, None, False)
    with pytest.raises(UserError, match="--judge: the same one twice"):
        axis_judges.open_judges(["words", "unsafe=words"], {}, "", False, None, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "casul"], "--suite casul: neither a file nor a suite"),
        (["--suite", "casual", "--limit", "0"], "--limit 0: must be at least 1"),
        (["--suite", "casual", "--limit", "few"], "--limit few: must be at least 1, a whole"),
        (["--suite", "casual", "--limit", "mic:5"], "--limit: no suite mic here; there are"),
        (["--suite", "casual", "--max-missing", "1"], "--max-missing 1.0: give a share"),
        (["--suite", "casual", "--judge", "oracle"], "--judge oracle: use classifier:MODEL_FILE"),
        (["--suite", "casual_out"], "--suite casual_out: give a file"),
        (["--suite", "casual", "--fold", "9"], None),
        (["--suite", "adversarial", "--fold", "9"], "--diasafety-fold 9"),
        (
            ["--suite", "casual", "--model", "no/such/folder"],
            "--model no/such/folder: no such model",
        ),
    ],
)
def test_mistakes(run, flags, message):
    if message is None:
        run(*flags, "--limit", "1")  # the fold is DiaSafety's alone
        return
    with pytest.raises(UserError, match=message):
        run(*flags)


def test_a_killed_command_goes_on(tiny_backbones, words_datapath, tmp_path):
    arguments = [
        *["evaluate", "--model", str(tiny_backbones["llama"]), "--suite", "casual"],
        *["--limit", "60", "--batch-size", "2", "--max-tokens", "12"],
        *["--datapath", str(words_datapath)],
    ]
    code = "from parlai_prosocial.cli.main import main; main()"
    out = tmp_path / "killed"
    command = [sys.executable, "-c", code, *arguments, "--out", str(out)]
    deadline = time.monotonic() + 300
    with open(tmp_path / "errors", "w") as errors:
        running = subprocess.Popen(command, stdout=errors, stderr=errors)
    try:
        while not (files := list(out.glob("cache/replies*"))) or lines(files[0]) < 4:
            assert time.monotonic() < deadline
            assert running.poll() is None, (tmp_path / "errors").read_text()[-2000:]
            time.sleep(0.002)
    finally:
        running.kill()
        running.wait()
    assert lines(files[0]) < 60
    assert not (out / "log.jsonl").exists()
    for folder in (out, tmp_path / "whole"):
        done = CliRunner().invoke(cli, [*arguments, "--out", str(folder)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    whole = (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert (out / "log.jsonl").read_bytes() == whole


def lines(file):
    return file.read_bytes().count(b"\n")
