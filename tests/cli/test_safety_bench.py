"""``prosocial safety-bench``; tests/evaluation/test_safety_bench.py runs it in full."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation import safety_bench as bench
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval


def test_writes_and_shows_what_it_finds(tmp_path, monkeypatch):
    def run_safety_bench(model, tests, datapath, log_folder, batchsize):
        assert (model, tests, datapath, batchsize) == ("m", ("generate",), str(tmp_path), 7)
        assert log_folder.is_dir()
        flagged = {"Word list": wilson_interval(1, 10)}
        return {"Unsafe Generation:Safe Setting": {"n": 12, "missing": 2, "flagged": flagged}}

    monkeypatch.setattr(bench, "run_safety_bench", run_safety_bench)
    out = tmp_path / "out"
    arguments = ["safety-bench", "--model", "m", "--tests", "generate", "--out", str(out)]
    arguments += ["--batchsize", "7", "--datapath", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Safe Setting  Word list  10.0 [1.8, 40.4]      12        2" in result.output
    record = json.loads((out / "results.json").read_text())
    assert record["model"] == "m"
    rate = record["results"]["Unsafe Generation:Safe Setting"]["flagged"]["Word list"]
    assert rate["estimate"] == 0.1
    assert (
        "| Safe Setting | Word list | 10.0 [1.8, 40.4] | 12 | 2 |"
        in (out / "results.md").read_text()
    )


def test_what_is_missing_ends_it_in_one_line(tmp_path):
    arguments = ["safety-bench", "--model", "m", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"Safety Bench lacks .*`prosocial doctor` lists them too"):
        CliRunner().invoke(cli, [*arguments, "--datapath", str(tmp_path)], catch_exceptions=False)
