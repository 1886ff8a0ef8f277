"""``-m prosocial/classifier`` by the stock ``parlai`` executable, in another working directory."""

import json
import subprocess
from pathlib import Path

from parlai_prosocial.data import diasafety
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.training.recipe import RECIPES


def test_trains_reports_and_talks(tmp_path, tiny_encoder):
    def parlai(*arguments, stdin=""):
        command = ["parlai", *map(str, arguments)]
        options = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 180}
        done = subprocess.run(command, input=stdin, **options)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    recipe = RECIPES / "classifier" / "prosocial_safety.opt"
    output = parlai(
        *["train_model", "-o", recipe, "--backbone", tiny_encoder, "-mf", "judge/model"],
        *["--max-train-steps", "4", "--validation-max-exs", "8", "--short-final-eval", "true"],
    )
    for metric in ("accuracy", "class___casual___f1", "weighted_f1"):
        assert metric in output
    model_file = Path(tmp_path, "judge", "model")
    weights = model_file.parent / json.loads(model_file.read_text())["weights"]
    assert len(json.loads((weights / "prosocial.json").read_text())["labels"]) == 5
    output = parlai(
        *["interactive", "-mf", "judge/model", "--print-scores", "true"],
        stdin="Hi!\nI want to steal a car.\n[EXIT]\n",
    )
    assert output.count("Predicted class: __") == output.count("with probability: 0.") == 2


def test_the_mining_judge_has_seen_no_context_that_a_table_tests(tmp_path):
    preset = json.loads((RECIPES / "classifier" / "mining.opt").read_text())

    def contexts(fold, part):
        rows = diasafety.load_rows(str(tmp_path), "train", fold=fold, part=part)
        return {normalise_text(row["context"]) for row in rows}

    seen = contexts(preset["diasafety_fold"], preset["diasafety_part"])
    folds = json.loads((RECIPES / "diasafety" / "compare.json").read_text())["folds"]
    assert seen and all(seen.isdisjoint(contexts(fold, "test")) for fold in folds)
