"""Which replies make a pair, by hand."""

import json
import random
from collections import Counter

import pytest
from click.testing import CliRunner
from parlai.scripts.train_model import TrainLoop, TrainModel

from parlai_prosocial.agents import reference
from parlai_prosocial.cli.main import cli
from parlai_prosocial.data import own
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.mining import pairs as module
from parlai_prosocial.mining.pairs import PairRule, choose_pair, pair_rows
from parlai_prosocial.mining.replies import as_record, sample_scored_records
from parlai_prosocial.mining.turns import Contexts, Turn

RULE = PairRule()


def reply(text, p=None, log_prob=-1.0, ended=True, **more):
    """A record; no p: the judgement is missing."""
    unsafe = None if p is None else [p, "said"]
    given = {"source": "sampled", "reply": text, "ended": ended, "log_prob": log_prob}
    return {**given, "unsafe": unsafe, **more}


def words(count, first="w"):
    return " ".join([first, *["word"] * (count - 1)])


BAD = reply(words(10, "bad"), 0.9)


def test_a_safe_reply_and_the_unsafe_ones_of_its_length():
    good = reply(words(10), 0.1)
    near = [reply(words(n, f"bad{n}"), 0.8) for n in (7, 13)]
    far = [reply(words(n, f"bad{n}"), 0.9) for n in (6, 14)]
    pair = choose_pair([good, *near, *far], RULE)
    assert pair.response == good
    assert [record for record, _, _ in pair.negatives] == near
    assert [(kind, how_bad) for _, kind, how_bad in pair.negatives] == [("unsafe", 0.8)] * 2


@pytest.mark.parametrize("good", [reply(words(10), p) for p in (None, 0.31, 0.5)])
def test_what_is_not_clearly_safe_is_no_response(good):
    assert choose_pair([good, BAD], RULE) == module.NO_SAFE


@pytest.mark.parametrize("bad", [reply(words(10, "x"), p) for p in (None, 0.69, 0.3)])
def test_what_is_not_clearly_unsafe_is_no_negative(bad):
    assert choose_pair([reply(words(10), 0.1), bad], RULE) == module.NO_UNFIT


def test_the_thresholds_themselves_are_clear():
    pair = choose_pair([reply(words(10), 0.3), reply(words(10, "x"), 0.7)], RULE)
    assert pair.response["unsafe"][0] == 0.3


@pytest.mark.parametrize(
    "good",
    [
        reply(words(10), 0.1, ended=False),
        reply(words(4), 0.1),
        reply(words(31), 0.1),
    ],
)
def test_a_response_ended_and_is_neither_short_nor_long(good):
    assert choose_pair([good, BAD], RULE) == module.NO_RESPONSE


@pytest.mark.parametrize("count", [5, 30])
def test_the_longest_and_the_shortest_response(count):
    assert choose_pair([reply(words(count), 0.1), reply(words(count, "x"), 0.9)], RULE).response


def test_missing_and_empty_replies_are_nothing():
    nothing = [reply(None, None, None, False), reply("", None, None, False)]
    assert choose_pair([*nothing, reply(words(10), 0.1), BAD], RULE).response["reply"] == words(10)
    assert choose_pair(nothing, RULE) == module.NO_SAFE


def test_the_response_is_at_least_as_likely_as_the_median():
    """Of the safe ones alone, those that cannot be a response included."""
    safest = reply(words(10, "a"), 0.0, -3.0)
    likely = reply(words(10, "b"), 0.2, -1.0)
    middle = reply(words(10, "c"), 0.1, -2.0)
    bad = [reply(words(10, "x"), 0.9, -9.0)] * 3
    assert choose_pair([safest, middle, likely, *bad], RULE).response == middle
    assert choose_pair([safest, likely, middle, *bad], RULE).response == likely
    # Two: the median lies between them, so the likelier one alone is left.
    assert choose_pair([safest, likely, *bad], RULE).response == likely
    short = [reply(f"short {i}", 0.0, -0.5) for i in range(4)]
    assert choose_pair([safest, likely, middle, *short, *bad], RULE) == module.NO_RESPONSE


def test_of_several_the_first_is_taken():
    first, second = (reply(words(10, x), 0.1, -1.0) for x in "ab")
    assert choose_pair([first, second, BAD], RULE).response == first
    assert choose_pair([second, first, BAD], RULE).response == second


def test_the_next_best_response_where_no_negative_has_the_length_of_the_best():
    best, next_best = reply(words(5, "a"), 0.0), reply(words(20, "b"), 0.2)
    assert choose_pair([best, next_best, reply(words(20, "x"), 0.9)], RULE).response == next_best
    assert choose_pair([best, reply(words(20, "x"), 0.9)], RULE) == module.NO_NEAR


def test_the_worst_negatives_come_first_and_no_more_than_four():
    bad = [reply(words(10, f"x{i}"), 0.7 + i / 20, -i) for i in range(6)]
    pair = choose_pair([reply(words(10), 0.1), *bad], RULE)
    assert [record for record, _, _ in pair.negatives] == [bad[i] for i in (5, 4, 3, 2)]
    same = [reply(words(10, f"x{i}"), 0.9, log_prob) for i, log_prob in enumerate((-3, -1, -1))]
    pair = choose_pair([reply(words(10), 0.1), *same], RULE)
    assert [record for record, _, _ in pair.negatives] == [same[i] for i in (1, 2, 0)]


def test_equal_replies_count_once_and_fitting_ones_are_no_negatives():
    again = reply(words(10, "BAD") + "!", 0.95)
    pair = choose_pair([reply(words(10), 0.1), BAD, again], RULE)
    assert [record for record, _, _ in pair.negatives] == [BAD]
    fitting = frozenset([BAD["reply"]])
    assert choose_pair([reply(words(10), 0.1), BAD], RULE, fitting=fitting) == module.NO_UNFIT


def test_severity_weighs_where_the_judge_grades():
    mild, grave = (reply(words(10, x), 0.9) for x in "xy")
    mild["unsafe"] = as_record(Judgement(0.99, "l", severity=1.0))
    grave["unsafe"] = as_record(Judgement(0.8, "l", severity=3.5))
    contradictory = reply(words(10, "z"), 0.9, unsafe=[0.9, "l", 0.0])
    pair = choose_pair([reply(words(10), 0.1), mild, contradictory, grave], RULE)
    assert [how_bad for _, _, how_bad in pair.negatives] == [0.875, 0.25]  # of 4
    assert as_record(Judgement(0.5, "l")) == [0.5, "l"]


def preachy(text, p_unsafe=0.1, says=(1.0, "refusing"), **more):
    return reply(text, p_unsafe, preachy=says and list(says), **more)


def answering(text, p, p_unsafe=0.1, **more):
    """Judged for answering the turn too; no p: that judgement is missing."""
    return reply(text, p_unsafe, unresponsive=None if p is None else [p, "said"], **more)


def test_what_does_not_answer_is_never_the_response_and_a_negative_behind_unsafe_ones():
    evasive, good = answering(words(10, "e"), 0.9), answering(words(10), 0.1)
    pair = choose_pair([evasive, good], RULE)
    assert (pair.response, pair.negatives) == (good, [(evasive, "unresponsive", 0.9)])
    unsafe = answering(words(10, "bad"), 0.1, 0.75)
    pair = choose_pair([evasive, unsafe, good], RULE)
    assert [kind for _, kind, _ in pair.negatives] == ["unsafe", "unresponsive"]
    # Not clearly one or the other, and nobody could say.
    for p in (0.49, None):
        assert choose_pair([answering(words(10, "u"), p), unsafe], RULE) == module.NO_SAFE
        assert choose_pair([answering(words(10, "u"), p), good], RULE) == module.NO_UNFIT
    # However lenient the rule: what is a negative is no response.
    lenient = PairRule(safe_below=0.6, unsafe_from=0.7)
    half = answering(words(10, "h"), 0.55)
    assert choose_pair([half, good], lenient).response == good
    assert choose_pair([half, answering(words(10, "i"), 0.5)], lenient) == module.NO_SAFE
    # Both at once is one negative, an unsafe one.
    both = answering(words(10, "bad"), 0.9, 0.8)
    assert choose_pair([both, good], RULE).negatives == [(both, "unsafe", 0.8)]


OK = (0.0, "ok")


def test_preachy_replies_are_never_responses_and_negatives_where_asked():
    lecture = preachy(words(10, "As"))
    good = preachy(words(10), says=OK)
    assert choose_pair([lecture, good], RULE) == module.NO_UNFIT
    pair = choose_pair([lecture, good], RULE, preachy=True)
    assert (pair.response, pair.negatives) == (good, [(lecture, "preachy", 1.0)])
    assert choose_pair([lecture, BAD], RULE) == module.NO_SAFE
    # Nobody could say whether it preaches.
    assert choose_pair([preachy(words(10), says=None), BAD], RULE) == module.NO_SAFE
    unsafe = preachy(words(10, "bad"), 0.75, says=OK)
    pair = choose_pair([lecture, good, unsafe], RULE, preachy=True)
    assert [kind for _, kind, _ in pair.negatives] == ["unsafe", "preachy"]


def turn(text, label="Fine.", safety_label=None):
    return Turn((text,), (label,), ("A rule.",), safety_label, "", "task")


JUDGES = {"unsafe": "words@1", "preachy": "rules@1"}


def test_rows_carry_what_training_takes(tmp_path):
    turns = [turn("c"), turn("c", "Other."), turn("d"), turn("e", words(9, "bad"))]
    records = [
        [reply(words(10), 0.1, -1.5), reply(words(10, "x"), 0.8, -2.5), reply(words(9, "y"), 0.9)],
        [reply(words(10), 0.4), reply(None, None, None, False)],
        [reply(words(10), 0.1), reply(words(9, "bad"), 0.9), reply("no", None)],
    ]
    rows, summary = pair_rows(Contexts(turns), records, RULE, JUDGES, "train")
    assert rows == [
        {
            "context": ["c"],
            "response": words(10),
            "safety_label": None,
            "negatives": [words(9, "y"), words(10, "x")],
            "negative_weights": pytest.approx([1.125**0.5, 1.125**-0.5], abs=1e-5),
            "negative_sources": ["sampled", "sampled"],
            "negative_judges": ["words@1", "words@1"],
            "reference_log_prob": -1.5,
            "negative_reference_log_probs": [-1.0, -2.5],
            "contrast_group": None,
            "source": "task",
            "split": "train",
        }
    ]
    assert summary == {
        "contexts": 3,
        "casual_contexts": 0,
        "rows": 1,
        "yield": 0.3333,
        "negatives": {"unsafe": 2},
        "without a pair": {module.NO_SAFE: 1, module.NO_UNFIT: 1},
        "replies": {
            "clearly safe": 2,
            "clearly unsafe": 3,
            "in between": 1,
            "missing judgement": 1,
            "missing reply": 1,
        },
        "preachy_share": None,
        "preachy_negatives": False,
        "mining_judges": ["words@1"],
    }
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["reference_log_prob"] for _, row in checked_rows(str(file), own.SCHEMA)] == [-1.5]


@pytest.mark.parametrize(("lectures", "expected"), [(1, False), (2, True)])
def test_preachy_replies_count_from_their_share_on(lectures, expected):
    casual = [turn(f"c{i}", safety_label="__casual__") for i in range(25)]
    records = [[preachy(words(10), says=OK), preachy(words(11), says=OK)] for _ in casual]
    for found in records[:lectures]:
        found[1] = preachy(words(10, "As"))
    rows, summary = pair_rows(Contexts(casual), records, RULE, JUDGES, "train")
    assert summary["preachy_share"] == lectures / 50  # 2 and 4 per cent
    assert summary["preachy_negatives"] is expected
    assert len(rows) == (lectures if expected else 0)
    assert all(row["negative_judges"] == ["rules@1"] for row in rows)


def random_records(rng):
    return [
        reply(
            words(rng.randint(1, 40), f"w{rng.randint(0, 5)}"),
            rng.choice([None, rng.random()]),
            -3 * rng.random(),
            rng.random() < 0.7,
        )
        for _ in range(rng.randint(1, 12))
    ]


def test_every_pair_keeps_the_rule():
    rng, outcomes = random.Random(0), Counter()
    for _ in range(2000):
        pair = choose_pair(random_records(rng), RULE)
        outcomes[pair if isinstance(pair, str) else "pair"] += 1
        if isinstance(pair, str):
            continue
        count = len(pair.response["reply"].split())
        assert pair.response["unsafe"][0] <= 0.3 and pair.response["ended"] and 5 <= count <= 30
        assert 1 <= len(pair.negatives) <= 4
        for record, _, how_bad in pair.negatives:
            assert record["unsafe"][0] == how_bad >= 0.7
            assert abs(len(record["reply"].split()) - count) <= 0.3 * count + 1e-6
    assert len(outcomes) == 5 and min(outcomes.values()) > 20


@pytest.fixture
def mined(tiny_backbones, tmp_path, monkeypatch):
    """Mines own responses of a random model, by a list of what it may well say."""
    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    monkeypatch.setattr(PairRule, "__init__", _lenient(PairRule.__init__))
    (tmp_path / "OffensiveLanguage").mkdir()
    (tmp_path / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("a\ni\ne\no\ns\nt\n")
    arguments = [
        *["mine", "--model", str(tiny_backbones["llama"]), "--task", "prosocial", "--judge"],
        *["words", "--set", "prosocial-sample=true", "--limit", "40", "--samples", "6"],
        *["--max-tokens", "12", "--datapath", str(tmp_path), "--own-responses"],
    ]

    def mine(*more):
        out = tmp_path / "pairs.jsonl"
        result = CliRunner().invoke(
            cli, [*arguments, "--out", str(out), *more], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return out, result.output

    return mine


def _lenient(make):
    """Random replies are short and rarely end."""

    def init(self, *arguments, **settings):
        make(self, *arguments, **{"least_words": 1, "length_tolerance": 2.0, **settings})

    return init


def test_own_responses_train_relative_to_the_model_that_said_them(
    mined, tiny_backbones, tmp_path, monkeypatch
):
    """Its log p are what training computes itself, to rounding."""
    out, told = mined()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows and "pairs: yield" in told
    assert all(row["negative_sources"][0] == "sampled" for row in rows)
    monkeypatch.setattr(reference, "TOLERANCE", 1e-4)
    arguments = [
        *["-m", "prosocial", "--backbone", str(tiny_backbones["llama"]), "-t", "prosocial:Own"],
        *["--prosocial-data", str(out), "-mf", str(tmp_path / "model"), "--lora-rank", "2"],
        *["--contrast-reference", "init", "--precision", "fp32", "--batchsize", "4"],
        *["--max-train-steps", "1", "--skip-generation", "true", "--datapath", str(tmp_path)],
    ]

    def train():
        loop = TrainLoop(TrainModel.setup_args().parse_args(arguments))
        list(loop.train_steps())
        assert loop._train_steps == 1

    train()
    wrong = [{**row, "reference_log_prob": row["reference_log_prob"] - 1.0} for row in rows]
    out.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    for file in tmp_path.glob("model*"):
        file.unlink() if file.is_file() else None
    with pytest.raises(UserError, match="reference_log_prob is"):
        train()


def test_contexts_are_cut_as_the_engine_cuts_them(tiny_backbones, tmp_path):
    engine = open_engine(str(tiny_backbones["llama"]), str(tmp_path), False, max_context_tokens=24)
    context = "I feel tired today.\n" * 20
    [records] = sample_scored_records(
        engine, [context], 3, max_tokens=6, seed=0, temperature=1.0, top_p=0.9
    )
    long = open_engine(str(tiny_backbones["llama"]), str(tmp_path), False)
    pairs = [(context, [record["reply"] for record in records])]
    assert [record["log_prob"] for record in records] == pytest.approx(
        engine.mean_log_probs(pairs)[0], abs=1e-4
    )
    assert engine.mean_log_probs(pairs)[0] != pytest.approx(long.mean_log_probs(pairs)[0], abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--safe-below", "0.6"], "--safe-below 0.6: must be at least 0 and below --threshold 0.5"),
        (["--preachy-share", "2"], "--preachy-share 2.0: give a share"),
        (["--model", "http://localhost:1/v1#x"], "an address tells no log p"),
    ],
)
def test_mistakes(mined, flags, message):
    with pytest.raises(UserError, match=message):
        mined(*flags)
