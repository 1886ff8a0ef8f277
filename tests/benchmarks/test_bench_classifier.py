"""The whole comparison on a tiny model and part of the data; and that it goes on where it was."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(tmp_path_factory, tiny_encoder):
    """``bench(*arguments)`` on every sixth row of the corpus; ``bench.folder``."""
    folder = tmp_path_factory.mktemp("bench")
    corpus = REPOSITORY / "parlai_prosocial/data/bundled/diasafety.jsonl.gz"
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        rows = file.readlines()[::6]
    (folder / "rows.jsonl").write_text("".join(rows), "utf-8")
    settings = {
        "backbone": tiny_encoder,
        "diasafety_data": folder / "rows.jsonl",
        "max_train_steps": 2,
        "validation_every_n_steps": 2,
        "validation_max_exs": 16,
        "short_final_eval": "true",
    }

    def run(*arguments):
        command = [sys.executable, REPOSITORY / "benchmarks" / "bench_classifier.py"]
        command += ["--fold", "0", "--out", folder / "models", "--results", "results", *arguments]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PARLAI_DATAPATH": str(folder / "data")},
            timeout=300,
        )

    run.folder = folder
    return run


def test_compares_and_goes_on(bench):
    done = bench()
    assert done.returncode == 0, done.stderr[-2000:]
    text = (bench.folder / "results" / "classifier.json").read_text()
    assert str(bench.folder) not in text and str(REPOSITORY) not in text
    result = json.loads(text)
    arms = [model["arm"] for model in result["models"]]
    assert arms == ["context and reply", "reply only"]
    rows = {row["measure"]: row for row in result["tables"][0]["rows"]}
    assert len(rows) == 12
    for row in rows.values():
        for arm in arms:
            assert 0 <= row[arm]["low"] <= row[arm]["estimate"] <= row[arm]["high"] <= 1
        gap = row[arms[0]]["estimate"] - row[arms[1]]["estimate"]
        assert row["difference"]["estimate"] == pytest.approx(gap)
    for model in result["models"]:
        opt = json.loads((bench.folder / (model["model_file"] + ".opt")).read_text())
        assert opt["diasafety_part"] == "judge-train" and opt["max_train_steps"] == 2
    markdown = (bench.folder / "results" / "classifier.md").read_text()
    assert "| AUC, mean of the context-bound categories |" in markdown

    again = bench()
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("finished before") == 2
    assert json.loads((bench.folder / "results" / "classifier.json").read_text()) == result
