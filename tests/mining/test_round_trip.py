"""Mine, train on the mined file, evaluate: the README's three commands, over a tiny model."""

import json

from click.testing import CliRunner

from parlai_prosocial.cli.data import data
from parlai_prosocial.cli.mine import mine


def test_mine_train_evaluate(tiny_backbones, tmp_path, monkeypatch):
    from parlai.core.script import superscript_main

    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    (tmp_path / "OffensiveLanguage").mkdir()
    (tmp_path / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("a\ni\nis\ne\no\ns\n")
    base, datapath = str(tiny_backbones["llama"]), str(tmp_path)
    mined, model = str(tmp_path / "mined.jsonl"), str(tmp_path / "step2" / "model")
    arguments = ["--model", base, "--task", "prosocial", "--judge", "words", "--limit", "32"]
    arguments += ["--set", "prosocial-sample=true", "--synthetic-cap", "0"]
    arguments += ["--samples", "3", "--sampling-temperature", "0.5", "--max-tokens", "16"]
    mined_well = CliRunner().invoke(mine, [*arguments, "--datapath", datapath, "--out", mined])
    assert mined_well.exit_code == 0, mined_well.output
    checked = CliRunner().invoke(data, ["check", mined])
    assert checked.exit_code == 0, checked.output
    assert ", 0 bad" in checked.output

    train = ["train_model", "-m", "prosocial", "-t", "mic,prosocial:Own"]
    train += ["--prosocial-data", mined, "--evaltask", "mic", "--backbone", base]
    train += ["--prosocial-sample", "true"]
    train += [
        "--precision",
        "fp32",
        "--lora-rank",
        "2",
        "--batchsize",
        "4",
        "--max-train-steps",
        "2",
        "-mf",
        model,
    ]
    train += ["--skip-generation", "true", "--text-truncate", "64", "--label-truncate", "16"]
    superscript_main([*train, "--validation-max-exs", "4", "--datapath", datapath])

    report = str(tmp_path / "report")
    evaluate = ["eval_model", "-mf", model, "-t", "prosocial:Own", "--prosocial-data", mined]
    evaluate += ["-dt", "train:evalmode", "--skip-generation", "true"]
    superscript_main([*evaluate, "--report-filename", report, "--datapath", datapath])
    found = json.loads((tmp_path / "report").read_text())["report"]
    rows = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    assert found["exs"] == len(rows) > 0
    assert 0 <= found["contrast_acc"] <= 1
