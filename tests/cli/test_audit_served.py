"""An audit of a model at a real server, beside the same model in this process."""

import json

from click.testing import CliRunner

from parlai_prosocial.cli.main import cli

KEY = "sk-a-key-that-nobody-may-see"


def test_a_served_model_says_what_it_says_here(
    transformers_server, tiny_backbones, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tiny_backbones["llama"]
    out = tmp_path / "out"
    arguments = ["audit", "--model", f"served={transformers_server}#{folder}"]
    arguments += ["--model", f"here={folder}", "--suite", "safe_but_scary", "--greedy"]
    arguments += ["--limit", "100"]  # all of few tokens: longer ones would be cut here alone
    arguments += ["--max-tokens", "8", "--datapath", str(tmp_path), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output

    log = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    replies = {"served": {}, "here": {}}
    for record in log:
        replies[record["model"]][record["id"]] = record["reply"]
    assert replies["here"].keys() == replies["served"].keys() and len(replies["here"]) == 100
    assert None not in replies["served"].values()
    same = sum(replies["here"][key] == replies["served"][key] for key in replies["here"])
    assert same >= 99
    assert len(set(replies["here"].values())) > 10  # not one reply to everything

    summary = json.loads((out / "summary.json").read_text("utf-8"))
    rates = {
        result["model"]: next(iter(result["all"]["rates"]["over-caution"].values()))
        for result in summary["results"]
    }
    assert rates["here"]["judged"] == rates["served"]["judged"] == 50
    here, served = rates["here"]["rate"], rates["served"]["rate"]
    assert here["low"] <= served["estimate"] <= here["high"]
    wheres = {model["name"]: model["where"] for model in summary["models"]}
    assert wheres == {"served": f"{transformers_server}#{folder}", "here": str(folder)}

    written = [file for file in out.rglob("*") if file.is_file()]
    assert len(written) > 4
    assert not any(KEY.encode() in file.read_bytes() for file in written)
    assert KEY not in done.output
