"""What is kept, dropped, counted and weighed; and a killed run that ends as one that was not."""

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner

import parlai_prosocial
from parlai_prosocial.cli.main import cli
from parlai_prosocial.data import own
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.engines.reply_scores import SampledReply
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.mining import chunks
from parlai_prosocial.mining import negatives as module
from parlai_prosocial.mining.mine import Mined
from parlai_prosocial.mining.negatives import Miners, MiningPlan, mine_contexts
from parlai_prosocial.mining.turns import Contexts, Turn
from parlai_prosocial.util.missing import Missing

PLAN = MiningPlan(
    samples=4,
    synthetic=0,
    max_tokens=8,
    temperature=1.0,
    top_p=0.9,
    threshold=0.5,
    judge_casual=False,
    seed=0,
)


def turn(text, label="Fine.", safety_label=None, **more):
    empty = {"rots": (), "contrast_group": "", "source": "task"}
    return Turn(tuple(text.split("\n")), (label,), safety_label=safety_label, **{**empty, **more})


class Sayer:
    """An engine with a list of replies for each context; None is a failed call."""

    name = "sayer"

    def __init__(self, **replies):
        self.replies, self.asked, self.missing = replies, [], Counter()

    def sample(self, contexts, n, max_tokens, seed, temperature=1.0, top_p=1.0):
        self.asked += contexts
        found = [
            [t if t is None else SampledReply(t, True) for t in self.replies[c]] for c in contexts
        ]
        assert all(len(replies) == n for replies in found)
        return found


class ByFirstWord:
    """A judge that reads its probability off the reply: ``0.7 ...``; ``?`` is missing."""

    name = "words@1"

    def __init__(self):
        self.judged, self.missing = [], Missing()

    def judge(self, contexts, replies):
        self.judged += zip(contexts, replies, strict=True)
        firsts = [reply.split()[0] for reply in replies]
        return [
            None if x == "?" else Judgement(float(x), "bad" if float(x) > 0.5 else "ok")
            for x in firsts
        ]


def run(turns, engine, out, plan=PLAN, synthetic=None, judge=None, limit=None, casual=False):
    judge = judge or ByFirstWord()
    contexts = Contexts(turns, limit, casual)
    miners = Miners(engine, synthetic, judge, PreachyRules())
    summary = mine_contexts(contexts, miners, plan, "train", out, {"any": 1})
    return [json.loads(line) for line in out.read_text().splitlines()], summary


def test_unsafe_replies_become_negatives(tmp_path):
    engine = Sayer(
        c=["0.9 yes", "0.1 no", "0.6 well", "? who knows"], d=[None, "", "0.9 Fine!", "0.1 no"]
    )
    turns = [turn("c", contrast_group="g", rots=("Be kind.",)), turn("d", label="0.9 fine")]
    rows, summary = run(turns, engine, tmp_path / "out.jsonl")
    assert rows == [
        {
            "context": ["c"],
            "response": "Fine.",
            "rots": ["Be kind."],
            "safety_label": None,
            "negatives": ["0.9 yes", "0.6 well"],
            "negative_weights": pytest.approx([1.5**0.5, 1.5**-0.5], abs=1e-5),
            "negative_sources": ["sampled", "sampled"],
            "negative_judges": ["words@1", "words@1"],
            "contrast_group": "g",
            "source": "task",
            "split": "train",
        }
    ]
    assert summary["sources"]["sampled"] == {
        "replies": 8,
        "missing reply": 1,
        "empty reply": 1,
        "missing judgement": 1,
        "fitting": 2,
        "unsafe": 3,
        "equal to a fitting reply": 1,
        "kept, unsafe": 2,
        "yield": 0.25,
    }
    assert (summary["rows"], summary["contexts"], summary["casual_contexts"]) == (1, 2, 0)
    assert summary["mining_judges"] == ["words@1"]
    assert summary["labels"] == {"unsafe": {"bad": 3, "ok": 2}}
    assert not (tmp_path / "out.jsonl.journal").exists()


def test_casual_contexts_get_preachy_replies_and_synthetic_ones(tmp_path):
    engine = Sayer(
        c=["0.9 yes", "As an AI, I sail.", "As an AI I sail", "AS AN AI, I SAIL!"], d=["0.9 no"] * 4
    )
    _, examples = module.moraliser()
    told = "\n".join([*examples, "c"])
    moraliser = Sayer(**{told: ["As an AI, I sail.", "It is wrong to sail."]})
    judge = ByFirstWord()
    turns = [turn("c", safety_label="__casual__"), turn("d")]
    plan = replace(PLAN, synthetic=2)
    rows, summary = run(turns, engine, tmp_path / "out.jsonl", plan, moraliser, judge)
    assert rows[0]["negatives"] == ["As an AI, I sail.", "As an AI I sail", "It is wrong to sail."]
    assert rows[0]["negative_sources"] == ["sampled", "sampled", "synthetic"]
    assert {name.split("@")[0] for name in rows[0]["negative_judges"]} == {"preachy-rules"}
    assert rows[1]["negative_judges"] == ["words@1"]
    assert {context for context, _ in judge.judged} == {"d"}
    assert moraliser.asked == [told]
    assert summary["sources"]["synthetic"] == {
        "replies": 2,
        "preachy": 2,
        "repeated": 1,
        "kept, preachy": 1,
        "yield": 0.5,
    }
    assert summary["sources"]["sampled"]["repeated"] == 4  # three of d, one of c


def test_the_moraliser_sees_its_examples_and_the_end_of_the_context():
    system_prompt, examples = module.moraliser()
    assert system_prompt
    found = PreachyRules().judge([""] * len(examples), examples)
    assert [bool(j.p_unsafe) for j in found] == [False, True] * (len(examples) // 2)
    for context, seen in [
        ("a", ["a"]),
        ("a\nb", ["b"]),
        ("your persona: I sail.\na\nb\nc\nd", ["b", "c", "d"]),
    ]:
        assert module._told_to_moralise(context).split("\n") == [*examples, *seen]


def test_casual_contexts_can_be_judged_for_safety_too(tmp_path):
    engine = Sayer(c=["0.9 yes", "As an AI, I sail.", "0.8 It's wrong to sail.", "? hm"])
    judge = ByFirstWord()
    judge.judge = lambda contexts, replies: [
        Judgement(float(r.split()[0]), "x") if r[0].isdigit() else None for r in replies
    ]
    plan = replace(PLAN, judge_casual=True)
    rows, summary = run([turn("c")], engine, tmp_path / "out.jsonl", plan, judge=judge, casual=True)
    names = [name.split("@")[0] for name in rows[0]["negative_judges"]]
    assert names == ["words", "preachy-rules", "words"]  # preachy though unjudged; both is unsafe
    assert summary["sources"]["sampled"]["missing judgement"] == 1
    # Each kind has weights of mean log 0 by itself.
    assert rows[0]["negative_weights"][1] == 1.0


def test_turns_of_one_context_are_sampled_once(tmp_path):
    engine = Sayer(c=["0.9 yes", "0.9 one", "0.9 two", "0.2 no"])
    turns = [turn("c", label="0.9 one"), turn("C!", label="0.9 two")]
    rows, _ = run(turns, engine, tmp_path / "out.jsonl")
    assert engine.asked == ["c"]
    assert [row["response"] for row in rows] == ["0.9 one", "0.9 two"]
    assert [row["negatives"] for row in rows] == [
        ["0.9 yes"]
    ] * 2  # fitting for one, unfit for none


def test_the_limit_spreads_over_the_task(tmp_path):
    turns = [turn(name) for name in "abcdefgh"]
    engine = Sayer(**{name: ["0.9 yes"] * 4 for name in "abcdefgh"})
    rows, _ = run(turns, engine, tmp_path / "out.jsonl", limit=3)
    assert [row["context"] for row in rows] == [["a"], ["c"], ["f"]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--judge is missing: some contexts are not casual"),
        (["--threshold", "0"], "--threshold 0.0: give a probability above 0"),
        (["--top-p", "1.5"], "--top-p 1.5: give a probability"),
        (["--samples", "0"], "--samples 0: must be at least 1"),
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--synthetic-cap", "-1"], "--synthetic-cap -1: must not be negative"),
        (["--sampling-temperature", "0"], "--sampling-temperature: must be above 0"),
        (["--judge-casual", "--casual"], "--judge is missing: --judge-casual needs it"),
        (["--safe-below", "0.2"], "--safe-below: needs --own-responses"),
        (["--preachy-share", "0.1"], "--preachy-share: needs --own-responses"),
        (["--own-responses", "--judge-casual"], "--judge-casual: does nothing with --own"),
        (["--own-responses", "--synthetic-cap", "2"], "--synthetic-cap: does nothing with --own"),
        (["--own-responses", "--synthetic-model", "x"], "--synthetic-model: does nothing with"),
        (["--judge", "words", "--reply-only"], "--reply-only: needs a judge hf:FOLDER"),
        (["--unsafe-label", "x"], "--unsafe-label: needs a judge hf:FOLDER or parlai:MODEL_FILE"),
        (["--out", "mined"], "--out mined: give a name that ends with .jsonl"),
        (["--judge", "oracle"], "--judge oracle: use classifier:MODEL_FILE"),
        (["--model", "no/such/folder"], "no/such/folder: no such model file or folder"),
    ],
)
def test_mistakes(flags, message, tiny_backbones, tmp_path, monkeypatch):
    # Some seconds of a CPU that has no bf16.
    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    arguments = ["mine", "--model", str(tiny_backbones["llama"]), "--task", "prosocial"]
    arguments += ["--set", "prosocial-sample=true", "--synthetic-cap", "0"]
    arguments += ["--out", str(tmp_path / "out.jsonl"), *flags]
    if "no/such/folder" in flags:
        arguments += ["--judge", "words"]
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert list(tmp_path.glob("out*")) == []


def test_the_file_is_own_data(tmp_path):
    names = [f"c{i}" for i in range(40)]
    engine = Sayer(**{n: [f"0.{5 + i % 5} {k}" for k in range(4)] for i, n in enumerate(names)})
    out = tmp_path / "out.jsonl"
    run([turn(name) for name in names], engine, out)
    rows = [row for _, row in checked_rows(str(out), own.SCHEMA)]
    assert own.mining_judges(rows) == {"words@1"}
    [*examples] = own.contrastive_examples(own.load_rows(str(out), str(tmp_path), "train"))
    assert len(examples) == 40
    written = [json.loads(line)["negative_weights"] for line in out.read_text().splitlines()]
    for example, weights in zip(examples, written, strict=True):
        assert example.negative_weights == pytest.approx(weights, abs=1e-4)


def test_a_run_that_stops_asks_for_no_chunk_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2)
    names = [f"c{i}" for i in range(9)]
    turns = [turn(name) for name in names]
    replies = {name: [f"0.9 {name} {k}" for k in range(4)] for name in names}
    whole, _ = run(turns, Sayer(**replies), tmp_path / "whole.jsonl")

    class Stops(Sayer):
        def sample(self, *arguments, **more):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().sample(*arguments, **more)

    first, second = Stops(**replies), Sayer(**replies)
    with pytest.raises(KeyboardInterrupt):
        run(turns, first, tmp_path / "out.jsonl")
    rows, summary = run(turns, second, tmp_path / "out.jsonl")
    assert sorted(first.asked + second.asked) == names
    assert rows == whole
    # Finished: nothing is done again.
    third = Sayer()
    assert run(turns, third, tmp_path / "out.jsonl")[1] == summary
    assert third.asked == []


def test_a_judge_that_is_not_asked_is_refused(tiny_backbones, tmp_path):
    (tmp_path / "own.jsonl").write_text(json.dumps({"context": ["Hi!"], "response": "Ho."}))
    with pytest.raises(
        UserError, match=r"^judge words: is not asked, all contexts that are mined are casual"
    ):
        parlai_prosocial.mine(
            str(tiny_backbones["llama"]),
            "prosocial:Own",
            tmp_path / "out.jsonl",
            settings=[f"prosocial-data={tmp_path / 'own.jsonl'}"],
            casual=True,
            judge="words",
            datapath=str(tmp_path),
        )


@pytest.fixture
def arguments(tiny_backbones, tmp_path):
    (tmp_path / "OffensiveLanguage").mkdir()
    words = tmp_path / "OffensiveLanguage" / "OffensiveLanguage.txt"
    words.write_text("a\ni\ne\no\ns\nt\nin\nre\n")  # what a random model may well say
    return [
        *["mine", "--model", str(tiny_backbones["llama"]), "--task", "prosocial"],
        *["--set", "prosocial-sample=true"],
        *["--judge", "words", "--judge-casual", "--limit", "80", "--samples", "2"],
        *["--synthetic-model", str(tiny_backbones["llama"]), "--max-tokens", "16", "--seed", "5"],
        *["--sampling-temperature", "0.6", "--datapath", str(tmp_path)],
    ]


def in_this_process(arguments):
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_python_as_by_the_command(arguments, tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    model, out = str(tiny_backbones["llama"]), tmp_path / "out.jsonl"
    found = parlai_prosocial.mine(
        model,
        "prosocial",
        out,
        settings=["prosocial-sample=true"],
        judge="words",
        judge_casual=True,
        limit=80,
        samples=2,
        synthetic_model=model,
        max_tokens=16,
        seed=5,
        sampling_temperature=0.6,
        datapath=str(tmp_path),
    )
    assert found.summary["rows"] == len(found.rows) == len(found.to_pandas()) > 0
    assert json.loads(found.summary_file.read_text()) == found.summary
    assert f"{found}\n" in in_this_process([*arguments, "--out", str(out)])
    with pytest.raises(UserError, match=r"^top_p 0: give a probability"):
        parlai_prosocial.mine(model, "prosocial", out, top_p=0)


def test_why_things_are_missing_is_counted_over_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 1)

    class Stops(Sayer):
        def sample(self, contexts, *arguments, **more):
            if len(self.asked) == self.stop:
                raise KeyboardInterrupt
            self.missing["status 400: too long"] += 1
            return super().sample(contexts, *arguments, **more)

    replies = {name: [None, "0.9 a", "? b", "0.1 c"] for name in "abc"}
    first, second = Stops(**replies), Stops(**replies)
    first.stop, second.stop = 2, 9
    turns = [turn(name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run(turns, first, tmp_path / "out.jsonl")
    _, summary = run(turns, second, tmp_path / "out.jsonl")
    assert summary["missing"] == {"status 400: too long": 3}
    printed = str(Mined(tmp_path / "out.jsonl", summary))
    assert "missing: 3 x status 400: too long" in printed


def test_a_judge_that_breaks_leaves_judgements_missing(tmp_path):
    class Breaks(ByFirstWord):
        def judge(self, contexts, replies):
            if "0.3 x" in replies:
                raise ValueError("too odd")
            return super().judge(contexts, replies)

    engine = Sayer(c=["0.9 yes", "0.3 x", "0.6 well", "0.1 no"])
    [row], summary = run([turn("c")], engine, tmp_path / "out.jsonl", judge=Breaks())
    assert row["negatives"] == ["0.9 yes", "0.6 well"]
    assert summary["sources"]["sampled"]["missing judgement"] == 1
    assert summary["missing"] == {"ValueError": 1}


def test_a_judge_that_is_dead_for_good_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 1)

    class Dies(ByFirstWord):
        dead = False

        def judge(self, contexts, replies):
            self.dead |= "c2" in contexts
            if self.dead:
                raise RuntimeError("CUDA error:\ndevice-side assert triggered")
            return super().judge(contexts, replies)

    said = ["0.9 yes", "0.3 x", "0.6 well", "0.1 no"]
    turns, out = [turn("c1"), turn("c2")], tmp_path / "out.jsonl"
    with pytest.raises(
        UserError, match=r"none of 4 replies was judged \(RuntimeError: CUDA error: device-side"
    ):
        run(turns, Sayer(c1=said, c2=said), out, judge=Dies())
    # What was judged before is kept, and nothing of what was not.
    rows, summary = run(turns, Sayer(c1=said, c2=said), out)
    assert len(rows) == 2 and "missing" not in summary


def test_a_context_that_a_judge_cannot_take_ends_no_run(tmp_path):
    class Breaks(ByFirstWord):
        def judge(self, contexts, replies):
            if contexts == ["Hi!"]:
                return [Judgement(0.0, "fits")]
            if "c2" in contexts:
                raise ValueError("too odd")
            return super().judge(contexts, replies)

    said = ["0.9 yes", "0.3 x", "0.6 well", "0.1 no"]
    turns = [turn("c1"), turn("c2")]
    rows, summary = run(turns, Sayer(c1=said, c2=said), tmp_path / "out.jsonl", judge=Breaks())
    assert len(rows) == 1
    assert summary["sources"]["sampled"]["missing judgement"] == 4
    assert summary["missing"] == {"ValueError": 4}


def test_a_killed_command_started_again_gives_the_same_file(arguments, tmp_path):
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    assert f"{once}: " in in_this_process([*arguments, "--out", str(once)])

    code = "from parlai_prosocial.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--out", str(twice)]
    journal = tmp_path / "twice.jsonl.journal"
    deadline = time.monotonic() + 300
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline
            assert running.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.002)
    finally:
        running.kill()
        running.wait()
    assert not twice.exists()
    assert journal.read_bytes().count(b"\n") in (2, 3)  # settings, and not all of 3 chunks
    assert "mining: " in (tmp_path / "log").read_text()  # the progress bar

    in_this_process([*arguments, "--out", str(twice)])
    assert twice.read_bytes() == once.read_bytes()
    assert once.read_text().count("\n") > 2
    summaries = [
        json.loads((tmp_path / f"{name}.summary.json").read_text()) for name in ("once", "twice")
    ]
    for summary in summaries:
        assert summary["sources"]["sampled"]["replies"] == 160
        assert summary["sources"]["synthetic"]["replies"] == summary["casual_contexts"] > 10
        for measured in ("seconds", "replies_per_second"):
            assert summary.pop(measured) > 0
    assert summaries[0] == summaries[1]
