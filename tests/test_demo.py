"""`make demo` with tiny models: one screen, the rest in files, and the recipe's names are right."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from parlai_prosocial.errors import UserError

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "scripts" / "demo.py"
RECIPE = REPOSITORY / "parlai_prosocial" / "recipes" / "demo"


@pytest.fixture(scope="module")
def recipe(tiny_backbones, tmp_path_factory):
    """The recipe made small, with tiny models and a judge that needs no files of ParlAI's."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("step1.opt", "step2.opt"):
        few = {"max_train_steps": 3, "batchsize": 2, "text_truncate": 48}
        preset = json.loads((RECIPE / name).read_text("utf-8")) | few
        (folder / name).write_text(json.dumps(preset))
    few = {"contexts_per_category": 2, "casual_dialogues": 2, "sampled_replies": 2}
    plan = json.loads((RECIPE / "compare.json").read_text("utf-8")) | few
    (folder / "compare.json").write_text(json.dumps(plan))
    (folder / "arms.json").write_bytes((RECIPE / "arms.json").read_bytes())
    shown = json.loads((RECIPE / "shown.json").read_text("utf-8"))
    shown["models"] = {label: str(tiny_backbones["llama"]) for label in shown["models"]}
    shown["judge"] = "words"
    (folder / "shown.json").write_text(json.dumps(shown))
    return folder


@pytest.fixture(scope="module")
def demo(recipe, tiny_backbones, tmp_path_factory):
    """``demo(*flags)``: the finished process, and the folder that it wrote."""
    place = tmp_path_factory.mktemp("demo-out")
    words = place / "data" / "OffensiveLanguage" / "OffensiveLanguage.txt"
    words.parent.mkdir(parents=True)
    words.write_text("a\ni\ne\n")

    def run(*flags):
        command = [
            sys.executable,
            str(SCRIPT),
            "--recipe",
            str(recipe),
            "--out",
            str(place / "out"),
        ]
        command += ["--base", str(tiny_backbones["llama"]), "--datapath", str(place / "data")]
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        return done, place / "out"

    return run


def test_it_fits_one_screen_and_the_rest_is_in_files(demo):
    done, out = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120
    assert done.stdout.count("looks ") == 24  # three models, eight turns
    labelled = [line.split() for line in lines if "[" in line and "." in line]
    rates = {}
    for words in labelled:
        if words[2:3] and words[2][:1] == "[":
            rates.setdefault(words[0], words[1])  # the short training's table comes after
    summary = json.loads((REPOSITORY / shown()["labelled"]["file"]).read_text("utf-8"))
    for label, row in shown()["labelled"]["rows"].items():
        assert rates[label] == rate_in(summary, row)
    assert "MLE-only, two steps" in done.stdout and "n-pair, two steps" in done.stdout
    assert "context-bound" in (out / "results.md").read_text("utf-8")
    assert (out / "replies.md").read_text("utf-8").count("- **") == 24
    assert "measuring mle" in (out / "log.txt").read_text("utf-8")


def shown():
    return json.loads((RECIPE / "shown.json").read_text("utf-8"))


def rate_in(summary, row):
    [table] = [t for t in summary["tables"] if t["title"] == "Labelled test"]
    [found] = [r for r in table["rows"] if r["model"] == row]
    return f"{100 * found['unsafe']['estimate']:.1f}"


def test_a_mistake_is_one_line(demo):
    done, _ = demo("--base", "nowhere/at/all")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert line.startswith("error: --base nowhere/at/all: no such model") and "log.txt" in line


def test_the_recipe_shows_models_and_a_judge_of_the_zoo():
    from parlai_prosocial.zoo.entry import find_entry

    for name in (*shown()["models"].values(), shown()["judge"].removeprefix("classifier:")):
        assert find_entry(name).kind
    assert set(shown()["labelled"]["rows"]) == set(shown()["models"])
    assert sum(shown()["turns"].values()) == 8


def test_a_labelled_table_or_row_that_is_missing_is_named(tmp_path):
    names = runpy.run_path(str(SCRIPT))
    labelled = {"file": "tables.json", "rows": {"base": "Base", "tuned": "Tuned"}, "note": "x"}
    shown = names["Shown"]({}, "words", {}, labelled)
    file = tmp_path / "tables.json"
    table = {"title": "Labelled test", "rows": [{"model": "Base"}]}
    for tables, message in (([], "no table 'Labelled test'"), ([table], "no row 'Tuned' in 'Lab")):
        file.write_text(json.dumps({"tables": tables}))
        with pytest.raises(UserError, match=f"{file}: {message}"):
            names["labelled_table"](shown, file)
