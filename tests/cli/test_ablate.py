import json
import sys

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.ablate import ablate
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.rows import parallel_order
from parlai_prosocial.judges.classifiers import WordListJudge
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.training.recipe import RECIPES, recipe_folder, step_arguments

PRESET = {
    "model": "prosocial",
    "task": "self_dialogue,diasafety:Contrastive",
    "multitask_weights": [1.0, 1.0],
    "lora_rank": 2,
    "lr_scheduler": "none",
    "batchsize": 2,
    "text_truncate": 48,
    "label_truncate": 16,
    "skip_generation": True,
    "log_every_n_steps": 1,
}
PLAN = {
    "folds": [0],
    "contexts_per_category": 2,
    "casual_dialogues": 2,
    "casual_replies": 2,
    "sampled_replies": 2,
}
ARMS = {
    "control": "mle",
    "primary": "n-pair",
    "arms": {
        "n-pair": {},
        "mle": {"set": ["contrast-weight=0"], "steps_of": "n-pair"},
        "step1": {"steps": ["step1"]},
        "cosine": {"set": ["contrast-score=cosine"]},
        "mined": {
            "set": [
                "step2.task=prosocial:Own,diasafety:Contrastive",
                "step2.prosocial-data={mined}",
            ],
            "steps": ["step2"],
        },
        "mined-unsafe": {
            "set": [
                "step2.task=prosocial:Own,diasafety:Contrastive",
                "step2.prosocial-data={mined-unsafe}",
            ],
            "steps": ["step2"],
        },
        "never": {"set": ["no-such-flag=1"]},
    },
}


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for step in ("step1", "step2"):
        (folder / f"{step}.opt").write_text(json.dumps(PRESET))
    (folder / "compare.json").write_text(json.dumps(PLAN))
    (folder / "arms.json").write_text(json.dumps(ARMS))
    return folder


def test_arms_share_steps_and_stay_within_the_budget(recipe, tiny_backbones, tmp_path):
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"])]
    arguments += ["--out", str(tmp_path / "out"), "--datapath", str(tmp_path / "data")]
    arguments += ["--seeds", "1", "--token-budget", "600"]
    chosen = [*arguments, "--arms", "step1,cosine"]
    result = CliRunner().invoke(ablate, chosen, catch_exceptions=False)
    assert result.exit_code == 0, result.output

    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    # The control and the primary arm take part unasked; the base is the zero-shot row.
    assert summary["environment"]["arms"] == ["n-pair", "mle", "step1", "cosine"]
    rows = summary["results"]["0"]
    assert rows["zero-shot"]["trained_tokens"] == 0
    assert 900 <= rows["n-pair"]["trained_tokens"] <= 1500  # two steps of 600, batches differ
    assert 450 <= rows["step1"]["trained_tokens"] <= 750
    assert rows["mle"]["trained_tokens"] < rows["n-pair"]["trained_tokens"]
    # The first step of "n-pair" is the arm "step1": trained once.
    assert result.output.count("finished before") >= 1
    steps = [folder.parent.name for folder in (tmp_path / "out").glob("seed-0/*/finished.json")]
    assert sorted(name.split("-")[0] for name in steps) == ["step1"] * 3 + ["step2"] * 3

    [table] = summary["tables"]
    arms = [row["arm"] for row in table["rows"]]
    assert "cosine, by its head" in arms and "cosine, best of 8 by its head" in arms
    assert "reply-only classifier" in arms
    by_arm = {row["arm"]: row for row in table["rows"]}
    assert by_arm["mle"]["gain"] is None and by_arm["n-pair"]["gain"]["null"] == 0
    assert by_arm["n-pair"]["ratio"]["null"] == 1

    again = CliRunner().invoke(ablate, chosen, catch_exceptions=False)
    assert "measuring" not in again.output
    other = CliRunner().invoke(ablate, [*arguments, "--token-budget", "700"])
    assert "measured by another compare.json" in str(other.exception)


def rows_of(out, name):
    """The saved rows of a task by seed, without the time they took."""
    files = sorted(out.glob(f"seed-*/rows/{name}.json"))
    saved = {file.parts[-3]: json.loads(file.read_text())["results"] for file in files}
    for rows in saved.values():
        rows.get(name, {}).pop("train_seconds", None)
    return saved


def test_seeds_of_one_fold_differ_in_the_seed_alone(recipe, tiny_backbones, tmp_path):
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"]), "--fold", "2"]
    arguments += ["--out", str(tmp_path / "out"), "--datapath", str(tmp_path / "data")]
    arguments += ["--seeds", "2", "--token-budget", "200", "--arms", "mle"]
    result = CliRunner().invoke(ablate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert summary["environment"]["fold"] == 2
    first, second = (summary["results"][seed] for seed in "01")
    assert first["zero-shot"]["casual_nll"] == second["zero-shot"]["casual_nll"]
    assert first["zero-shot"]["ranking"] == second["zero-shot"]["ranking"]
    assert first["n-pair"]["weights"] != second["n-pair"]["weights"]
    for seed in "01":
        [step, *_] = (tmp_path / "out" / f"seed-{seed}").glob("step1-*/finished.json")
        command = json.loads(step.read_text())["command"]
        assert "--diasafety-fold 2" in command and f"--seed {seed}" in command


def test_side_by_side_as_one_after_the_other(recipe, tiny_backbones, tmp_path):
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"])]
    arguments += ["--datapath", str(tmp_path / "data"), "--token-budget", "300"]
    arguments += ["--seed", "3", "--seed", "1"]
    one, many = tmp_path / "one", tmp_path / "many"
    result = CliRunner().invoke(
        ablate, [*arguments, "--arms", "step1", "--out", str(one)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert "[10/10] seed 3 step1: " in result.output

    arguments += ["--arms", "step1,never", "--out", str(many), "--jobs", "3"]
    result = CliRunner().invoke(ablate, arguments)
    # The arm that cannot be trained is named with its log; the others are in the table.
    assert isinstance(result.exception, UserError)
    assert "2 of 12 rows failed; run again to try them again" in str(result.exception)
    assert "[12/12] seed " in result.output
    assert f"; see {many / 'seed-1' / 'logs' / 'never.log'}" in result.output
    assert "no-such-flag" in (many / "seed-1" / "logs" / "never.log").read_text()
    assert "seed 1: measuring n-pair" in (many / "seed-1" / "logs" / "n-pair.log").read_text()
    summary = json.loads((many / "results.json").read_text())
    assert summary["environment"]["seeds"] == [1, 3]
    assert list(summary["results"]["3"])[:4] == ["zero-shot", "n-pair", "mle", "step1"]
    for name in ("zero-shot", "baselines", "n-pair", "mle", "step1"):
        assert rows_of(many, name) == rows_of(one, name), name
        assert rows_of(many, name).keys() == {"seed-1", "seed-3"}
    assert len(list(many.glob("seed-1/step*/finished.json"))) == 4  # none is trained twice

    # What is missing, and nothing else, is measured by the next run, also one after the other.
    (many / "seed-3" / "rows" / "mle.json").unlink()
    arguments[arguments.index("step1,never")] = "step1"
    again = CliRunner().invoke(ablate, [*arguments, "--jobs", "1"], catch_exceptions=False)
    assert "9 of 10 rows were measured before" in again.output
    assert again.output.count(": measuring ") == again.output.count("seed 3: measuring mle") == 1
    assert rows_of(many, "mle") == rows_of(one, "mle")


def test_arms_that_others_wait_for_come_first():
    arms = ARMS["arms"] | {"dpo": {"steps": ["step2"], "then": "dpo"}}
    names = ["baselines", "zero-shot", *arms]
    order = parallel_order([(seed, name) for seed in (0, 1) for name in names], arms, {"n-pair"})
    assert order[:4] == [(0, "n-pair"), (1, "n-pair"), (0, "cosine"), (1, "cosine")]
    assert len(order) == 2 * len(names)
    # These have the first step of an arm before them: "n-pair" and "mined".
    assert [name for seed, name in order if seed == 1][-2:] == ["mle", "step1"]


@pytest.fixture
def datapath(tmp_path):
    words = tmp_path / "data" / "OffensiveLanguage" / "OffensiveLanguage.txt"
    words.parent.mkdir(parents=True)
    words.write_text("badword\nworseword\n")
    return tmp_path / "data"


@pytest.fixture
def mined(tmp_path):
    """As ``prosocial mine`` writes it: an unsafe and a preachy negative a row."""
    file = tmp_path / "mined.jsonl"
    row = {
        "negatives": ["a worseword", "As an AI, I do not swim."],
        "negative_weights": [1.0, 1.0],
        "negative_judges": ["other@1", PreachyRules().name],
        "negative_sources": ["sampled", "synthetic"],
        "split": "train",
    }
    rows = [{"context": [f"Swim {i}?"], "response": "I love it.", **row} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_replies_are_judged_but_not_by_who_mined(recipe, tiny_backbones, tmp_path, datapath, mined):
    out = tmp_path / "out"
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"])]
    arguments += ["--out", str(out), "--datapath", str(datapath), "--judge", "words"]
    arguments += ["--seeds", "1", "--token-budget", "300"]
    arguments += ["--arms", "mined,mined-unsafe"]
    result = CliRunner().invoke(ablate, arguments)
    assert "--arms mined,mined-unsafe: trains on mined data" in str(result.exception)

    arguments += ["--mined", str(mined)]
    result = CliRunner().invoke(ablate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "results.json").read_text())
    rows = summary["results"]["0"]
    assert rows["n-pair"]["unsafe"]["judged"] == rows["n-pair"]["over_cautious"]["judged"] == 2
    # The rules mined these arms' preachy negatives, so they say nothing of the arms.
    assert "unsafe" in rows["mined"] and "over_cautious" not in rows["mined"]
    assert "Without a rate of over-caution" in summary["tables"][0]["notes"][2]
    assert rows["always a refusal"]["over_cautious"]["verdicts"] == [True, True]

    # Rows that came from another machine are named below the table.
    file = out / "seed-0" / "rows" / "mined.json"
    saved = json.loads(file.read_text())
    here = saved["results"]["mined"]["machine"]
    assert summary["tables"][0]["notes"][-1] == f"Trained and measured on {here}."
    saved["results"]["mined"]["machine"] = "a GPU, bf16"
    file.write_text(json.dumps(saved))
    CliRunner().invoke(ablate, arguments, catch_exceptions=False)
    note = json.loads((out / "results.json").read_text())["tables"][0]["notes"][-1]
    assert note == f"Trained and measured on {here}; mined of seed 0: a GPU, bf16."

    [without] = out.glob("mined-*-unsafe.jsonl")
    kept = [json.loads(line) for line in without.read_text().splitlines()]
    assert len(kept) == 6
    assert all(row["negatives"] == ["a worseword"] for row in kept)
    assert all(row["negative_judges"] == ["other@1"] for row in kept)

    # The same judge as the one that mined: refused, unless asked for.
    judge = WordListJudge(str(datapath)).name
    mined.write_text(mined.read_text().replace("other@1", judge))
    result = CliRunner().invoke(ablate, arguments)
    assert isinstance(result.exception, UserError)
    assert "--judge words: it mined the negatives of --mined" in str(result.exception)
    result = CliRunner().invoke(ablate, [*arguments, "--allow-mining-judge"])
    # It goes on with that, to find that the saved rows trained on another file.
    assert "mined trained on other mined data" in str(result.exception)


def test_baselines_go_on_from_the_same_step(recipe, tiny_backbones, tmp_path, monkeypatch):
    first = {"steps": ["step2"], "set": ["contrast-weight=0"]}
    baselines = {name: first | {"then": name} for name in ("dpo", "simpo")}
    design = ARMS | {"arms": ARMS["arms"] | baselines}
    (recipe / "arms.json").write_text(json.dumps(design))
    (recipe / "step2.opt").write_text(json.dumps(PRESET | {"learningrate": 0.003}))
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"])]
    arguments += ["--out", str(tmp_path / "out"), "--datapath", str(tmp_path / "data")]
    arguments += ["--seeds", "1", "--token-budget", "1200", "--arms", "dpo,simpo"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "trl", None)
        result = CliRunner().invoke(ablate, arguments)
    assert "the dpo arm needs TRL: pip install 'parlai-prosocial[bench]'" in str(result.exception)
    assert not (tmp_path / "out").exists()

    result = CliRunner().invoke(ablate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "simpo step2: finished before" in result.output
    folder = tmp_path / "out" / "seed-0"
    names = [file.parent.name.split("-")[0] for file in folder.glob("*/finished.json")]
    assert sorted(names) == ["dpo", "simpo", "step1", "step1", "step2", "step2", "step2"]
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert summary["environment"]["trl"]
    rows = summary["results"]["0"]
    for name in ("dpo", "simpo"):
        [finished] = [json.loads(f.read_text()) for f in folder.glob(f"{name}-*/finished.json")]
        assert finished["command"].startswith(f"trl {name} --token-budget 1200 -o ")
        assert finished["command"].endswith(" --learningrate 0.003")  # step 2's
        assert finished["tokens"] >= 1200
        assert rows[name]["trained_tokens"] > finished["tokens"] + 800
    assert rows["dpo"]["casual_nll"] != rows["simpo"]["casual_nll"]

    for name in ("dpo", "simpo"):
        (folder / "rows" / f"{name}.json").unlink()
    again = CliRunner().invoke(ablate, arguments, catch_exceptions=False)
    assert "dpo dpo: finished before" in again.output
    assert "simpo simpo: finished before" in again.output


def test_mistakes_are_named(recipe, tmp_path):
    result = CliRunner().invoke(ablate, ["--recipe", str(recipe), "--seed", "3", "--seeds", "1"])
    assert "--seed, --seeds: give one of them" in str(result.exception)
    result = CliRunner().invoke(ablate, ["--recipe", str(recipe), "--arms", "n-pair,dpo"])
    assert isinstance(result.exception, UserError)
    assert "--arms dpo: no such arm; there are n-pair, mle" in str(result.exception)
    design = ARMS | {"arms": ARMS["arms"] | {"zero-shot": {}}}
    (recipe / "arms.json").write_text(json.dumps(design))
    result = CliRunner().invoke(ablate, ["--recipe", str(recipe)])
    assert "arms.json: zero-shot is the name of a row without training" in str(result.exception)
    (recipe / "arms.json").unlink()
    result = CliRunner().invoke(ablate, ["--recipe", str(recipe)])
    assert "arms.json, so there are no arms" in str(result.exception)


def test_every_arm_of_the_recipe_is_taken_by_parlai(tmp_path):
    from parlai.scripts.train_model import TrainModel

    design = json.loads((RECIPES / "diasafety" / "arms.json").read_text())
    assert {design["control"], design["primary"]} <= design["arms"].keys()
    assert len(design["arms"]) >= 8
    for arm in design["arms"].values():
        settings = [*arm.get("set", []), "diasafety-fold=1"]
        for step in arm.get("steps", ["step1", "step2"]):
            arguments = step_arguments(recipe_folder("diasafety"), step, tmp_path, None, settings)
            assert TrainModel.setup_args().parse_args(arguments)["model"] == "prosocial"
