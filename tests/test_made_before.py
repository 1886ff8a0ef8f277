"""What users made with the package before its rooms were moved opens, goes on and says the same.

``tests/made_before/README.md`` says what the files are.
"""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

FILES = Path(__file__).parent / "made_before" / "files"
ADDRESS = "http://made-before.invalid/v1#said"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A copy of the files, which is the working directory."""
    folder = tmp_path / "made"
    shutil.copytree(FILES, folder)
    for file in filter(Path.is_file, folder.rglob("*")):
        data = file.read_bytes()
        for name in (b"@FOLDER@", b"@PYTHON@"):
            data = data.replace(name, str(folder).encode())
        file.write_bytes(data)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The last turns that the model at ``ADDRESS`` was asked to answer."""
    turns, said = [], json.loads((FILES / "said.json").read_text())

    class Model(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turns.append(body["messages"][-1]["content"])
            line = said[(sum(turns[-1].encode()) + body["seed"]) % len(said)]
            answer = {"choices": [{"message": {"content": line}, "finish_reason": "stop"}]}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield turns
    server.shutdown()
    server.server_close()


def prosocial(*arguments):
    from parlai_prosocial.cli.main import cli

    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows_of(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("model", ["lora/model", "full/model", "exported"])
def test_models_say_and_score_as_they_did(here, model):
    from parlai.scripts.eval_model import EvalModel

    from parlai_prosocial import Prosocial

    expected = json.loads((here / "expected.json").read_text())[model]
    reply = Prosocial.from_pretrained(model, classifier="judge/model").reply(["Hi!"])
    assert reply.text == expected["reply"]
    assert reply.scores == pytest.approx(expected["scores"], abs=1e-5)
    assert reply.turn_safety.probabilities == pytest.approx(expected["safety"], abs=1e-5)
    if model != "exported":
        assert "recorded the hashes of" in prosocial("seal", model)
        report = EvalModel.main(
            model_file=model,
            task="prosocial:Own",
            prosocial_data="talk.jsonl",
            datatype="test",
            batchsize=2,
            skip_generation=True,
        )
        assert report["ppl"].value() == pytest.approx(expected["ppl"], rel=1e-5)


def training_state(model_file):
    weights = json.loads(model_file.read_text())["weights"]
    return torch.load(model_file.parent / weights / "training.pt", weights_only=True)


def test_training_goes_on_from_the_checkpoint(here):
    from parlai.scripts.train_model import TrainModel

    checkpoint = here / "lora" / "model.checkpoint"
    assert training_state(checkpoint)["number_training_updates"] == 2
    TrainModel.main(
        model="prosocial",
        model_file="lora/model",
        init_model="first/model",
        task="prosocial:Own",
        prosocial_data="talk.jsonl",
        backbone="base",
        lora_rank=2,
        contrast_score="likelihood+cosine",
        precision="fp32",
        optimizer="adamw",
        learningrate=0.01,
        lr_scheduler="none",
        batchsize=2,
        text_truncate=96,
        label_truncate=12,
        skip_generation=True,
        max_train_steps=5,
        validation_every_n_steps=1,
        validation_metric="ppl",
        save_after_valid=True,
    )
    state = training_state(checkpoint)
    assert state["number_training_updates"] == 4  # ParlAI saves no checkpoint after the last one
    steps = {float(moment["step"]) for moment in state["optimizer"]["state"].values()}
    assert steps == {4.0}


@pytest.mark.parametrize("data", ["mined.jsonl", "annotated.jsonl"])
def test_mined_and_annotated_rows_are_trained_on(here, data):
    from parlai.scripts.train_model import TrainModel

    assert "rows" in prosocial("data", "check", data)
    TrainModel.main(
        model="prosocial",
        model_file="next/model",
        init_model="lora/model",
        task="prosocial:Own",
        prosocial_data=data,
        lora_rank=2,
        precision="fp32",
        datatype="train",
        evaltask="prosocial:Own:prosocial_data=talk.jsonl",
        skip_generation=True,
        max_train_steps=1,
    )
    assert training_state(here / "next" / "model")["number_training_updates"] == 1


MINE = ["mine", "--model", ADDRESS, "--task", "prosocial:Own", "--samples", "2", "--seed", "3"]
MINE += ["--set", "prosocial_data=talk.jsonl", "--judge", "classifier:judge/model"]
MINE += ["--synthetic-cap", "0", "--threshold", "0.66", "--judge-casual", "--concurrency", "1"]


def test_mining_goes_on_from_the_journal(here, asked):
    finished = (here / "mined.jsonl").read_bytes()
    prosocial(*MINE, "--out", "mined.jsonl")
    assert asked == [] and (here / "mined.jsonl").read_bytes() == finished

    begun = rows_of(here / "stopped.jsonl.journal")
    assert len(begun) == 2  # the settings and one chunk of 32 contexts; 4 contexts are left
    prosocial(*MINE, "--out", "stopped.jsonl")
    assert len(asked) == 4 * 2
    before, now = rows_of(here / "mined.jsonl"), rows_of(here / "stopped.jsonl")
    assert [row["context"] for row in now] == [row["context"] for row in before]
    for old, new in zip(before, now, strict=True):
        if new["context"][-1] not in asked:
            assert new["negatives"] == old["negatives"]
            assert new["negative_weights"] == pytest.approx(old["negative_weights"], abs=1e-2)


def test_a_finished_annotation_is_not_begun_again(here, asked):
    before = (here / "annotated.jsonl").read_bytes()
    arguments = ["--set", "prosocial_data=talk.jsonl", "--limit", "4", "--concurrency", "1"]
    arguments += ["--rot-model", ADDRESS, "--out", "annotated.jsonl"]
    prosocial("annotate", "--task", "prosocial:Own", *arguments)
    assert asked == [] and (here / "annotated.jsonl").read_bytes() == before


EVALUATE = ["evaluate", "--model", f"said={ADDRESS}", "--model", "lora=lora/model"]
EVALUATE += ["--suite", "talk.jsonl", "--judge", "classifier:judge/model", "--max-tokens", "8"]
EVALUATE += ["--concurrency", "1", "--allow-mining-judge", "--out", "evaluated"]
EVALUATE += ["--engine", "transformers"]  # others have caches of their own


def counts(folder):
    results = json.loads((folder / "summary.json").read_text("utf-8"))["results"]
    rates = {(r["suite"], r["model"]): r["all"]["rates"] for r in results}
    return {
        (*who, axis, judge): (rate["hits"], rate["judged"])
        for who, of_axes in rates.items()
        for axis, judges in of_axes.items()
        for judge, rate in judges.items()
    }


def test_evaluation_goes_on_from_the_cache(here, asked):
    folder = here / "evaluated"
    cache = {file.name: file.read_bytes() for file in (folder / "cache").iterdir()}
    log, before = (folder / "log.jsonl").read_bytes(), counts(folder)
    # Sentinels and judges' quality may be asked about more by a newer evaluation; models not.
    of_models = [name for name in cache if name.startswith(("replies", "likelihoods"))]
    assert len(of_models) == 3

    prosocial("seal", "lora/model")
    prosocial(*EVALUATE)
    assert asked == []
    now = {file.name: file.read_bytes() for file in (folder / "cache").iterdir()}
    assert now.keys() == cache.keys()
    assert all(now[name] == cache[name] for name in of_models)
    assert (folder / "log.jsonl").read_bytes() == log and counts(folder) == before

    # Stopped before it had finished: what is missing is asked for, and nothing else.
    [replies] = (folder / "cache").glob("replies-http*")
    lines = replies.read_bytes().splitlines(keepends=True)
    replies.write_bytes(b"".join(lines[:-2]))
    (folder / "log.jsonl").unlink()
    (folder / "summary.json").unlink()
    prosocial(*EVALUATE)
    assert len(asked) == 2
    assert sorted(replies.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert (folder / "log.jsonl").read_bytes() == log and counts(folder) == before


def test_the_report_of_an_old_folder(here):
    prosocial("report", "--run", "evaluated", "--out", "report.html")
    page = (here / "report.html").read_text("utf-8")
    for record in rows_of(here / "evaluated" / "log.jsonl"):
        if record["model"] == "said":
            assert record["reply"] in page.replace("&#39;", "'").replace("\\u0027", "'")
