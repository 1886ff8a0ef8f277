import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.compare import compare
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.measurements import REPLY_ONLY, SHORTER
from parlai_prosocial.experiments.train_arms import demo_design

BASE, SHUFFLED = "base", "n-pair, two steps, shuffled contexts"
MLE, MATCHED, STEP1, NPAIR = (
    demo_design().arms[name]["row"] for name in ("mle", "mle-matched", "n-pair-step1", "n-pair")
)


@pytest.fixture
def plan():
    return {
        "folds": [0],
        "contexts_per_category": 2,
        "casual_dialogues": 2,
        "casual_replies": 2,
        "sampled_replies": 3,
        "arms": ["mle", "n-pair-step1", "n-pair"],
    }


def test_three_models_are_trained_measured_and_compared(
    plan, tiny_backbones, tmp_path, monkeypatch
):
    faster = "parlai_prosocial.models.precision.bf16_is_faster"
    monkeypatch.setattr(faster, lambda device: True)
    recipe = tmp_path / "tiny"
    recipe.mkdir()
    preset = {
        "model": "prosocial",
        "task": "diasafety:Contrastive",
        "lora_rank": 2,
        "lr_scheduler": "none",
        "batchsize": 2,
        "max_train_steps": 2,
        "text_truncate": 48,
        "label_truncate": 16,
        "skip_generation": True,
        "log_every_n_steps": 1,
        "in_batch_negatives": 1,
    }
    for step in ("step1", "step2"):
        (recipe / f"{step}.opt").write_text(json.dumps(preset))
    (recipe / "compare.json").write_text(json.dumps(plan))
    arguments = ["--recipe", str(recipe), "--base", str(tiny_backbones["llama"])]
    arguments += ["--out", str(tmp_path / "out"), "--datapath", str(tmp_path / "data")]
    result = CliRunner().invoke(compare, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = [BASE, MLE, STEP1, NPAIR, SHUFFLED, REPLY_ONLY, SHORTER]
    assert all(name in result.output for name in names)
    # Two steps of a random model decide nothing, and the table says so.
    assert "too small to conclude" in result.output
    assert (tmp_path / "out" / "results.md").exists()

    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]["0"]
    assert list(rows) == names
    assert len(rows[BASE]["ranking"]) == 10  # two contexts of each category
    assert rows[BASE]["trained_tokens"] == 0
    # The same positives, and negatives on top.
    assert 0 < rows[MLE]["trained_tokens"] < rows[NPAIR]["trained_tokens"]
    # MLE-only and n-pair are different models, both trained from the base.
    assert rows[MLE]["casual_nll"] != rows[NPAIR]["casual_nll"]

    again = CliRunner().invoke(compare, arguments, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert "measured before" in again.output
    _, first = result.output.split("Ranking: ")
    _, second = again.output.split("Ranking: ")
    assert first.strip() == second.strip()

    # An arm that is asked for later is added; what was measured stays, and so does the precision,
    # though it would be chosen otherwise now.
    monkeypatch.setattr(faster, lambda device: False)
    (recipe / "compare.json").write_text(
        json.dumps(plan | {"arms": [*plan["arms"], "mle-matched"]})
    )
    result = CliRunner().invoke(compare, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert summary["environment"]["precision"] == "bf16"
    more = summary["results"]["0"]
    matched = more.pop(MATCHED)
    assert more == rows
    tokens = rows[NPAIR]["trained_tokens"]
    assert rows[MLE]["trained_tokens"] < matched["trained_tokens"] < 1.5 * tokens

    # Rows that were measured on something else are not mixed with new ones.
    (recipe / "compare.json").write_text(json.dumps(plan | {"casual_dialogues": 3}))
    result = CliRunner().invoke(compare, arguments)
    assert isinstance(result.exception, UserError)
    assert "measured by another compare.json" in str(result.exception)


def test_arms_that_cannot_be_compared_are_named(plan, tmp_path):
    recipe = tmp_path / "tiny"
    recipe.mkdir()
    for step in ("step1", "step2"):
        (recipe / f"{step}.opt").write_text("{}")
    for arms, words in (
        (["mle", "dpo"], "arms dpo: no such arm; there are n-pair, mle"),
        (["mle"], "arms: add n-pair"),
        (None, "arms: is missing"),
    ):
        content = plan | {"arms": arms} if arms else {"folds": [0]}
        (recipe / "compare.json").write_text(json.dumps(content))
        result = CliRunner().invoke(compare, ["--recipe", str(recipe)])
        assert isinstance(result.exception, UserError)
        assert words in str(result.exception)
