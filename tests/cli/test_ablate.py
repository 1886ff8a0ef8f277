import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.ablate import ablate
from parlai_prosocial.cli.train import RECIPES, recipe_folder, step_arguments
from parlai_prosocial.errors import UserError

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
    steps = [folder.name for folder in (tmp_path / "out" / "seed-0").iterdir() if folder.is_dir()]
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


def test_mistakes_are_named(recipe, tmp_path):
    result = CliRunner().invoke(ablate, ["--recipe", str(recipe), "--arms", "n-pair,dpo"])
    assert isinstance(result.exception, UserError)
    assert "--arms dpo: no such arm; there are n-pair, mle" in str(result.exception)
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
