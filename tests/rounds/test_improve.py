"""A tiny model through every stage of two rounds; killed at each, it ends with the same bytes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tqdm import tqdm

import parlai_prosocial
from parlai_prosocial.cli.main import cli
from parlai_prosocial.data import own
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges import registry
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.mining.pairs import PairRule
from parlai_prosocial.rounds import measure, run
from parlai_prosocial.rounds import results as results_module
from parlai_prosocial.training import recipe
from parlai_prosocial.util import files, journal
from parlai_prosocial.util.missing import Missing
from parlai_prosocial.util.writer import Writer

TRAINING = (
    *("batchsize=4", "max-train-steps=3", "lora-rank=2", "text-truncate=48", "casual-kl=0"),
    *("warmup-updates=1", "learningrate=0.01", "save-every-n-secs=0.0001"),
)
TEXTS = [f"{a} {b}" for a in ("I took", "He says", "They like") for b in "abcdefghijkl"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Contexts to learn from and to measure on, a third of them casual, and a word list."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "contexts.jsonl", "w") as file:
        for i, text in enumerate(TEXTS):
            label = "__casual__" if i % 3 == 0 else "__needs_caution__"
            split = "valid" if i % 4 == 0 else "train"
            row = {"context": [text], "response": "Well.", "safety_label": label, "split": split}
            file.write(json.dumps(row) + "\n")
    (folder / "OffensiveLanguage").mkdir()
    (folder / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("a\ni\ne\no\ns\nt\n")
    return folder


@pytest.fixture
def arguments(data, tiny_backbones, tmp_path, monkeypatch):
    be_lenient(monkeypatch)
    monkeypatch.setattr("parlai_prosocial.mining.chunks.CHUNK", 16)
    monkeypatch.chdir(tmp_path)
    return {
        "model": str(tiny_backbones["llama"]),
        "task": "prosocial:Own",
        "judge": "words",
        "out": Path("out"),
        "rounds": 2,
        "samples": 4,
        "max_tokens": 12,
        "seed": 5,
        "settings": TRAINING,
        "task_settings": [f"prosocial-data={data / 'contexts.jsonl'}"],
        "max_perplexity_ratio": 100.0,
        "casual_dialogues": 2,
        "datapath": str(data),
        "say": lambda line: None,
    }


def be_lenient(patch):
    """Random replies are of any length and rarely end; no time for trying precisions."""
    make, reply = PairRule.__init__, TransformersEngine._reply
    patch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    patch.setattr(
        PairRule,
        "__init__",
        lambda self, *given, **more: make(
            self, *given, **{"least_words": 1, "length_tolerance": 5.0, **more}
        ),
    )
    patch.setattr(
        TransformersEngine, "_reply", lambda self, *given: replace(reply(self, *given), ended=True)
    )


def flags(arguments):
    """The same as a command."""
    words = ["improve"]
    for name, value in arguments.items():
        flag = {"settings": "--set", "task_settings": "--task-set"}.get(
            name, "--" + name.replace("_", "-")
        )
        if name != "say":
            values = value if isinstance(value, list | tuple) else [value]
            words += [word for one in values for word in (flag, str(one))]
    return words


def contents(out):
    """Bytes of all that a run leaves but of times and logs."""
    names = [
        "settings.json",
        "summary.json",
        "summary.md",
        *(f"{r}/valid{x}" for r in STAGED for x in ("-sampled.jsonl", "-judged.jsonl", ".json")),
        *(f"{r}/{x}.jsonl" for r in STAGED[1:] for x in ("sampled", "judged", "pairs")),
        *(f"{r}/{x}.summary.json" for r in STAGED[1:] for x in ("sampled", "judged", "pairs")),
    ]
    found = {name: (out / name).read_bytes() for name in names}
    for name in STAGED[1:]:
        manifest = json.loads((out / name / "training" / "model").read_text())
        weights = out / name / "training" / manifest["weights"] / "adapter_model.safetensors"
        found[f"{name} weights"] = weights.read_bytes()
    return found


STAGED = ("start", "round-1", "round-2")


class Kills:
    """Ends the process' work before what it has not ended it at yet."""

    def __init__(self):
        self.armed = False
        self.done, self.seen = set(), []

    def __call__(self, what):
        self.seen.append(what)
        if self.armed and what not in self.done:
            self.done.add(what)
            raise KeyboardInterrupt


@pytest.fixture
def kills(monkeypatch):
    """Kills before a chunk is kept, before a file is written, and in the middle of training."""
    gate = Kills()
    add, aside = journal.Journal.add, files.write_aside
    monkeypatch.setattr(
        journal.Journal, "add", lambda self, *a: (gate(f"chunk {self.path.name}"), add(self, *a))[1]
    )

    def written(file, text):
        gate(f"file {file.name}")
        aside(file, text)

    for module in (journal, recipe, run):
        monkeypatch.setattr(module, "write_aside", written)

    class Bar(tqdm):
        def update(self, n=1):
            if 0 < self.n < 3:
                gate(f"step of {self.desc}")
            return super().update(n)

    monkeypatch.setattr(recipe, "tqdm", Bar)
    return gate


def test_killed_at_every_stage_it_ends_with_the_same_bytes(arguments, kills, tmp_path, monkeypatch):
    whole = parlai_prosocial.improve(**arguments)
    expected, events = contents(tmp_path / "out"), set(kills.seen)
    assert whole.summary["rounds"][1]["pairs"]["rows"] > 0

    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    kills.armed = True
    for _ in range(len(events)):
        with pytest.raises(KeyboardInterrupt):
            parlai_prosocial.improve(**arguments)
    again = parlai_prosocial.improve(**arguments)
    assert kills.done == events
    assert contents(tmp_path / "again" / "out") == expected
    assert again.summary == whole.summary
    kills.seen = []
    parlai_prosocial.improve(**arguments)
    # Finished: nothing is done again but the summary.
    assert kills.seen == ["file settings.json", "file summary.md", "file summary.json"]


@pytest.fixture(scope="module")
def finished(data, tiny_backbones, tmp_path_factory):
    """A run of one round, its arguments and its folder's parent."""
    with pytest.MonkeyPatch.context() as patch:
        be_lenient(patch)
        folder = tmp_path_factory.mktemp("finished")
        arguments = {
            "model": str(tiny_backbones["llama"]),
            "task": "prosocial:Own",
            "judge": "words",
            "out": folder / "out",
            "rounds": 1,
            "samples": 4,
            "max_tokens": 12,
            "settings": TRAINING,
            "task_settings": [f"prosocial-data={data / 'contexts.jsonl'}"],
            "max_perplexity_ratio": 100.0,
            "casual_dialogues": 2,
            "datapath": str(data),
        }
        result = CliRunner().invoke(cli, flags(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        yield arguments, folder / "out", result.output


def test_the_command_prints_the_table_and_writes_all(finished):
    _, out, printed = finished
    summary = json.loads((out / "summary.json").read_text())
    assert "round 1" in printed and "parlai interactive -mf" in printed
    assert "also measured" in printed  # no --scoring-judge
    [one] = summary["rounds"]
    assert summary["best"] == 1 and summary["stopped"] is None
    assert one["command"].startswith("parlai train_model -o ") and one["command"] in printed
    rows = [row for _, row in checked_rows(str(out / "round-1" / "pairs.jsonl"), own.SCHEMA)]
    assert len(rows) == one["pairs"]["rows"] > 0
    assert all(row["reference_log_prob"] < 0 for row in rows)
    assert {row["split"] for row in rows} == {"train"}
    learnt = {row["context"][0] for row in rows}
    valid = [json.loads(x) for x in (out / "start" / "valid-judged.jsonl").read_text().splitlines()]
    assert not learnt & {row["context"][0] for row in valid}
    hard = sum(not row["casual"] for row in valid)
    unsafe = one["valid"]["unsafe"]
    assert unsafe["judged"] + unsafe["missing"] == hard > 0
    assert one["valid"]["over_cautious"]["judged"] == len(valid) - hard
    assert unsafe["rate"]["low"] <= unsafe["rate"]["estimate"] <= unsafe["rate"]["high"]
    assert summary["start"]["valid"]["unsafe_difference"] is None
    assert one["valid"]["perplexity_ratio"]["estimate"] == pytest.approx(
        one["valid"]["perplexity"]["estimate"] / summary["start"]["valid"]["perplexity"]["estimate"]
    )
    assert one["weights_sha256"] != summary["start"]["weights_sha256"]
    assert "Measured with: " in (out / "summary.md").read_text()


def test_labelled_replies_join_the_first_round(arguments, tmp_path):
    labels = tmp_path / "labels.jsonl"
    rows = [
        {"context": [text], "reply": reply, "axis": "unsafe", "label_1": unsafe}
        for text in TEXTS
        for reply, unsafe in (("No, I do not think so.", False), ("Yes, do it at once then.", True))
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parlai_prosocial.improve(**arguments | {"rounds": 1, "labels": [str(labels)]})
    out = arguments["out"] / "round-1"
    pairs = [row for _, row in checked_rows(str(out / "pairs.jsonl"), own.SCHEMA)]
    named = {
        reply
        for row in pairs
        for reply, judge in zip(row["negatives"], row["negative_judges"], strict=True)
        if judge == "labelled"
    }
    assert named == {"Yes, do it at once then."}
    elsewhere = {"context": ["Elsewhere."]}
    labels.write_text(json.dumps(rows[0] | elsewhere) + "\n")
    with pytest.raises(UserError, match="no labelled reply to a context"):
        parlai_prosocial.improve(
            **arguments | {"rounds": 1, "labels": [str(labels)], "out": Path("other")}
        )


def test_from_python_it_resumes_and_another_configuration_is_refused(finished, monkeypatch):
    arguments, out, _ = finished
    be_lenient(monkeypatch)
    arguments = {**arguments, "say": lambda line: None}
    done = parlai_prosocial.improve(**arguments)
    assert done.model_file == str(out / "round-1" / "training" / "model")
    assert list(done.to_pandas().index) == ["start", "round 1"]
    with pytest.raises(
        UserError, match=r"settings.json: was begun with other settings \(samples\)"
    ):
        parlai_prosocial.improve(**{**arguments, "samples": 3})
    with pytest.raises(UserError, match=r"\(settings\)"):
        parlai_prosocial.improve(**{**arguments, "settings": TRAINING[:-1]})


def test_a_second_run_into_one_folder_is_refused(arguments):
    with (
        Writer(arguments["out"], "--out"),
        pytest.raises(UserError, match=r"^out out: process .* writes there"),
    ):
        parlai_prosocial.improve(**arguments)
    assert not arguments["out"].exists()


def test_it_stops_where_casual_perplexity_passes_the_limit(arguments):
    done = parlai_prosocial.improve(**{**arguments, "max_perplexity_ratio": 0.01})
    assert len(done.summary["rounds"]) == 1
    assert "casual perplexity is" in done.summary["stopped"]
    assert done.summary["best"] is None and done.model_file is None
    assert "none is best" in str(done)


def test_it_stops_where_there_is_nothing_to_learn_from(arguments):
    # One reply can't be both.
    done = parlai_prosocial.improve(**{**arguments, "samples": 1})
    assert done.summary["rounds"] == [] and "no context has a pair" in done.summary["stopped"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "^rounds 0: must be at least 1"),
        ({"casual_dialogues": 0}, "^casual_dialogues 0: must"),
        ({"safe_below": 0.8}, "^safe_below 0.8: must be at least 0 and below unsafe_above 0.7"),
        ({"unsafe_above": 1.5}, "^unsafe_above 1.5: give a prob"),
        ({"max_perplexity_ratio": 0}, "^max_perplexity_ratio 0: must"),
        ({"scoring_judge": "words"}, "^scoring_judge words: is the judge that chooses"),
        ({"answer_judge": "words"}, "^answer_judge words: is a judge of what is unsafe"),
        ({"scoring_judge": "oracle"}, "^scoring_judge oracle: use classifier:"),
        ({"answer_judge": "hf:/nowhere"}, "^answer_judge hf:/nowhere: "),
        ({"reply_only": True}, "^reply_only: needs a judge hf:FOLDER"),
        ({"settings": ["seed=3"]}, "sets seed itself"),
        (
            {"settings": ["learningrat=1e-3"], "judge": "hf:/nowhere"},
            "^settings learningrat: parlai knows no --learningrat here",
        ),
        ({"model": "http://localhost:1/v1#x"}, "is an address; give a model that"),
    ],
)
def test_mistakes(arguments, change, message):
    with pytest.raises(UserError, match=message):
        parlai_prosocial.improve(**{**arguments, **change})
    assert not list(Path("out").glob("*/"))


def test_the_options_of_judges_reach_them(arguments, monkeypatch):
    def refuse(spec, datapath, bf16, *given):
        asked.append((spec, *given))
        if len(asked) == 3:
            raise UserError("enough")
        return FirstLetters(spec)

    asked = []
    monkeypatch.setattr(registry, "open_judge", refuse)
    others = {"scoring_judge": "parlai:b", "answer_judge": "words"}
    options = {"unsafe_label": "bad", "reply_only": True}
    with pytest.raises(UserError, match="enough"):
        parlai_prosocial.improve(**arguments | {"judge": "hf:a"} | others | options)
    assert asked == [
        ("hf:a", "bad", True, "--judge"),
        ("parlai:b", "bad", True, "--scoring-judge"),
        ("words", "bad", True, "--answer-judge"),
    ]


def one_round(number, unsafe, ratio):
    rate = None if unsafe is None else {"estimate": unsafe}
    valid = {"unsafe": {"rate": rate}, "perplexity_ratio": {"estimate": ratio}}
    return {"round": number, "valid": valid}


def test_the_best_round_is_the_safest_within_the_limit():
    rounds = [one_round(1, 0.3, 1.0), one_round(2, 0.2, 1.03), one_round(3, 0.1, 1.04)]
    assert results_module.best_round(rounds, 1.03) == 2
    assert results_module.best_round([*rounds, one_round(4, 0.2, 1.0)], 1.03) == 2
    assert results_module.best_round(rounds[2:], 1.03) is None
    assert results_module.best_round([one_round(1, None, 1.0)], 1.03) is None


def test_the_best_of_many_rounds_must_hold_against_them_all():
    def told(*p_values):
        rounds = [one_round(i, 0.3 - i / 100, 1.0) for i in range(1, len(p_values) + 1)]
        for one, p in zip(rounds, p_values, strict=True):
            found = {"estimate": -0.1, "low": -0.2, "high": -0.01, "null": 0.0, "p_value": p}
            one["valid"]["unsafe_difference"] = found
        settings = {"max_perplexity_ratio": 1.03}
        return results_module.verdict(
            {"rounds": rounds, "best": len(rounds), "stopped": None, "settings": settings}
        )

    assert "is below the start's" in told(0.03)
    assert "is lower, but not for sure" in told(0.5, 0.03)
    assert "is below the start's" in told(0.5, 0.02)


def test_missing_judgements_are_in_no_rate():
    records = [
        [{"reply": "a b", "ended": True, "unsafe": v}] for v in ([0.9, "x"], [0.1, "y"], None)
    ]

    class Three:
        casual = (False, False, False)

    casual = measure.CasualScores([1.0, 3.0], [1, 3])
    row = measure.measured(Three, records, casual, ["a", "b"], None)
    assert (row["unsafe"]["hits"], row["unsafe"]["judged"], row["unsafe"]["missing"]) == (1, 2, 1)
    assert row["unsafe"]["rate"]["estimate"] == 0.5
    after = measure.measured(Three, records[::-1], casual, ["a", "b"], row)
    assert after["unsafe_difference"]["estimate"] == 0.0  # of the one that both have
    assert after["perplexity_ratio"]["estimate"] == 1.0


class FirstLetters:
    """A stand-in for a judge of what answers: replies that begin before "n" do not."""

    def __init__(self, name="first letters"):
        self.name, self.missing = name, Missing()

    def judge(self, contexts, replies):
        return [Judgement(float(reply.lower() < "n"), "said") for reply in replies]


def test_who_does_not_answer_is_no_response_and_measured(arguments, tmp_path, monkeypatch):
    opened = registry.open_judge
    monkeypatch.setattr(
        registry,
        "open_judge",
        lambda spec, *given: FirstLetters() if spec == "llm:letters" else opened(spec, *given),
    )
    # Labelled as safe; of answering the labels say nothing.
    row = {"reply": "All of it, as they say.", "axis": "unsafe", "label_1": False}
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row | {"context": [text]}) + "\n" for text in TEXTS))
    asked = {**arguments, "rounds": 1, "answer_judge": "llm:letters", "labels": [str(labels)]}
    done = parlai_prosocial.improve(**asked)
    out = asked["out"]
    pairs = [row for _, row in checked_rows(str(out / "round-1" / "pairs.jsonl"), own.SCHEMA)]
    assert pairs and all(row["response"].lower() >= "n" for row in pairs)
    by_letters = {
        reply.lower() < "n"
        for row in pairs
        for reply, judge in zip(row["negatives"], row["negative_judges"], strict=True)
        if judge == "first letters"
    }
    assert by_letters == {True}
    valid = [json.loads(x) for x in (out / "start" / "valid-judged.jsonl").read_text().splitlines()]
    said = [reply["reply"].lower() < "n" for row in valid for reply in row["replies"]]
    assert done.summary["start"]["valid"]["unresponsive"]["hits"] == sum(said)
    assert done.summary["judges"]["answers"] == "first letters"
    assert "do not answer" in str(done)
    # Who judges is part of the run: without it, it is another one.
    with pytest.raises(UserError, match="answer_judge"):
        parlai_prosocial.improve(**{**arguments, "rounds": 1})
