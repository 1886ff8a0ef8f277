"""A tiny model through the arms on given pairs: what differs, what is shared, what is kept."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.ablate import ablate
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.experiments import pair_rows
from parlai_prosocial.experiments.on_pairs import ablate_pairs
from parlai_prosocial.experiments.pair_rows import permute_verdicts
from parlai_prosocial.experiments.pair_table import pair_table
from parlai_prosocial.experiments.train_arms import read_design
from parlai_prosocial.rounds.measuring import safest
from parlai_prosocial.training.recipe import RECIPES
from parlai_prosocial.util.files import file_sha256, write_aside

ARMS = ["likelihood", "n-pair", "n-pair-permuted", "dpo-5e-5", "simpo-5e-5", "best-of-8"]
REPLIES = ["Take a rest.", "It is fine to steal.", "I like it, go on.", "Sleep well, my friend."]
TRAINING = (
    *("batchsize=4", "max-train-steps=2", "lora-rank=2", "text-truncate=48"),
    *("warmup-updates=1", "learningrate=0.01"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    pairs = [
        {
            "context": [f"He says {a}."],
            "response": REPLIES[0],
            "negatives": REPLIES[1:],
            "negative_weights": [1.0, 2.0, 1.5],
            "split": "train",
        }
        for a in "abcdefgh"
    ]
    valid = [
        {"context": [f"I took {a}."], "response": "Well.", "safety_label": label, "split": "valid"}
        for a, label in zip("abcdef", ["__casual__", "__needs_caution__"] * 3, strict=True)
    ]
    for name, rows in (("pairs", pairs), ("valid", valid)):
        write_aside(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_aside(folder / "OffensiveLanguage" / "OffensiveLanguage.txt", "a\ni\ne\no\ns\nt\n")
    return folder


@pytest.fixture(scope="module")
def arguments(data, tiny_backbones):
    return {
        "init_model": str(tiny_backbones["llama"]),
        "pairs": data / "pairs.jsonl",
        "judge": "words",
        "task": "prosocial:Own",
        "task_settings": [f"prosocial-data={data / 'valid.jsonl'}"],
        "arms": ARMS,
        "seeds": [0, 1],
        "settings": TRAINING,
        "casual_dialogues": 2,
        "datapath": str(data),
        "say": lambda line: None,
    }


@pytest.fixture(scope="module")
def done(arguments, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
        return ablate_pairs(**arguments, out=tmp_path_factory.mktemp("out") / "arms")


def test_arms_see_the_same_examples_and_learn_different_things(done, data):
    of_seed = done.results[0]
    assert [row["arm"] for row in done.tables[0]["rows"]] == ["start", *ARMS]
    trained = [name for name in ARMS if name != "best-of-8"]
    assert len({of_seed[name]["weights_sha256"] for name in trained}) == len(trained)
    tokens = {name: of_seed[name]["trained_tokens"] for name in trained}
    assert tokens["n-pair"] == tokens["dpo-5e-5"] == tokens["simpo-5e-5"] > tokens["likelihood"]
    for name, pairs in (("n-pair", "data/pairs.jsonl"), ("n-pair-permuted", "pairs-permuted")):
        assert pairs.split("/")[-1] in of_seed[name]["command"]
    assert "--learningrate 5e-5" in of_seed["dpo-5e-5"]["command"]
    assert of_seed["n-pair"]["weights_sha256"] != done.results[1]["n-pair"]["weights_sha256"]
    permuted = (done.out / "seed-0" / "pairs-permuted.jsonl").read_text().splitlines()
    given = (data / "pairs.jsonl").read_text().splitlines()
    assert permuted != given
    for one, other in zip(map(json.loads, permuted), map(json.loads, given), strict=True):
        assert sorted([one["response"], *one["negatives"]]) == sorted(REPLIES)
        assert one["context"] == other["context"]


def test_the_best_of_eight_is_the_starts_safest_reply(done):
    folder = done.out / "seed-0" / "best-of-8"
    lines = (folder / "valid-judged.jsonl").read_text().splitlines()
    hard = [row["replies"] for row in map(json.loads, lines) if not row["casual"]]
    assert {len(replies) for replies in hard} == {8}
    expected = [replies[safest(replies)]["unsafe"][0] >= 0.5 for replies in hard]
    row = done.results[0]["best-of-8"]
    assert row["unsafe_verdicts"] == expected
    assert row["casual"] == done.results[0]["start"]["casual"]


def test_only_trained_arms_are_hypotheses(done):
    rows = {row["arm"]: row for row in done.tables[0]["rows"]}
    assert rows["n-pair"]["less_control"]["null"] == 0
    assert [n for n in rows if rows[n]["less_control"] is None] == [
        *("start", "likelihood", "best-of-8")
    ]
    assert all(row["less_start"]["null"] is None for n, row in rows.items() if n != "start")
    assert "The judge that measured also chose" in done.tables[0]["notes"][-1]


def test_what_is_done_is_not_done_again(done, arguments, monkeypatch):
    monkeypatch.setattr(pair_rows, "train_step", pytest.fail)
    monkeypatch.setattr(pair_rows, "Measuring", pytest.fail)
    again = ablate_pairs(**arguments, out=done.out)
    assert again.tables == done.tables
    with pytest.raises(UserError, match=r"begun with other settings \(casual_dialogues\)"):
        ablate_pairs(**arguments | {"casual_dialogues": 3}, out=done.out)
    file = done.out / "settings.json"
    record = json.loads(file.read_text())
    assert record["preset_sha256"] == file_sha256(RECIPES / "improve" / "round.opt")
    write_aside(file, json.dumps(record | {"preset_sha256": "of another preset"}))
    with pytest.raises(UserError, match=r"settings.json: .*other settings \(preset_sha256\)"):
        ablate_pairs(**arguments, out=done.out)
    del record["preset_sha256"]  # as earlier versions wrote it
    write_aside(file, json.dumps(record))
    assert ablate_pairs(**arguments, out=done.out).tables == done.tables


def test_pairs_of_contexts_that_measure_are_refused(arguments, data, tmp_path):
    row = {"context": ["I took a."], "response": "Well.", "negatives": ["No."], "split": "train"}
    write_aside(tmp_path / "pairs.jsonl", json.dumps(row) + "\n")
    with pytest.raises(UserError, match="1 context of it stand in valid of --task"):
        ablate_pairs(**arguments | {"pairs": tmp_path / "pairs.jsonl"}, out=tmp_path / "out")


def test_permuted_verdicts_keep_each_replys_log_p():
    row = {
        "response": "a",
        "negatives": ["b", "c"],
        "reference_log_prob": -1,
        "negative_reference_log_probs": [-2, -3],
    }
    found = permute_verdicts([row] * 300, seed=4)
    for one in found:
        replies = [one["response"], *one["negatives"]]
        scores = [one["reference_log_prob"], *one["negative_reference_log_probs"]]
        assert dict(zip(replies, scores, strict=True)) == {"a": -1, "b": -2, "c": -3}
    counts = [sum(one["response"] == reply for one in found) for reply in "abc"]
    assert min(counts) > 70
    assert row["negatives"] == ["b", "c"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "improve"], "--recipe improve: its arms learn from pairs; give --pairs"),
        (["--init-model", "x"], "--init-model: needs --pairs FILE"),
        (["--pairs", __file__], "--pairs: needs --init-model and --judge"),
        (["--pairs", __file__, "--mined", __file__], "--mined: is not for --pairs"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags, message):
    error = CliRunner().invoke(ablate, flags).exception
    assert isinstance(error, UsageError) and message in str(error)


def test_who_does_not_answer_has_a_column_where_a_judge_was_asked(done):
    rate = {"hits": 1, "judged": 4, "missing": 0, "rate": None}
    results = {
        seed: {name: {**row, "unresponsive": rate} for name, row in rows.items()}
        for seed, rows in done.results.items()
    }
    dialogues = range(len(done.results[0]["start"]["casual"]["nll"]))
    design = read_design(RECIPES / "improve")
    judges = {"choosing": "words", "scoring": "words"}
    asked = pair_table(results, design, dialogues, {**judges, "answers": "someone"})
    assert [row["unresponsive"] for row in asked["rows"]] == [0.25] * len(asked["rows"])
    assert any("someone" in note for note in asked["notes"])
    assert "unresponsive" not in done.tables[0]["columns"]


def test_the_judge_of_answers_is_another_one(arguments, tmp_path):
    with pytest.raises(UserError, match="answer-judge words: is a judge of what is unsafe"):
        ablate_pairs(**arguments, answer_judge="words", out=tmp_path / "arms")
