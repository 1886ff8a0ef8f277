"""A real server on loopback, ``transformers serve``: its replies are sampled, mined and counted."""

import json
import shutil
from string import ascii_lowercase

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.data import data
from parlai_prosocial.cli.mine import mine
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import SampledReply
from parlai_prosocial.engines.served import ChatClient
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone

CONTEXTS = [
    "I like walking.",
    "Hi\nHello there\nHow are you? I walked in the park with my dog.",
    "your persona: I sail.\nWhat do you like?",
]


@pytest.fixture(scope="module")
def sampling(tiny_backbones, tmp_path_factory):
    """A model that the server samples from, as its generation_config.json says so."""
    folder = tmp_path_factory.mktemp("sampling") / "llama"
    shutil.copytree(tiny_backbones["llama"], folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": True}))
    return folder


def test_replies_are_sampled(transformers_server, sampling, caplog):
    engine = open_engine(f"{transformers_server}#{sampling}", "", bf16=False, concurrency=3)
    replies = engine.sample(CONTEXTS, 4, max_tokens=8, seed=1, top_p=0.9)
    assert [len(found) for found in replies] == [4, 4, 4]
    assert all(isinstance(reply, SampledReply) for found in replies for reply in found)
    assert all(len(set(found)) > 1 for found in replies)
    assert not all(reply.ended for found in replies for reply in found)
    assert "does not sample" not in caplog.text


def test_seeds_hold_for_one_call_at_a_time(transformers_server, sampling):
    engine = open_engine(f"{transformers_server}#{sampling}", "", bf16=False, concurrency=1)
    replies = engine.sample(CONTEXTS, 2, max_tokens=8, seed=1)
    assert engine.sample(CONTEXTS, 2, max_tokens=8, seed=1) == replies
    assert engine.sample(CONTEXTS, 2, max_tokens=8, seed=2) != replies


def test_greedy_replies_are_those_of_our_own_engine(transformers_server, tiny_backbones):
    folder = tiny_backbones["llama"]
    here = TransformersEngine(Backbone(folder, trainable=False), "here")
    there = open_engine(f"{transformers_server}#{folder}", "", bf16=False)
    greedy = {"n": 1, "max_tokens": 8, "seed": 0, "temperature": 0.0}
    texts = [[reply.text.strip() for reply in found] for found in here.sample(CONTEXTS, **greedy)]
    assert [[r.text for r in found] for found in there.sample(CONTEXTS, **greedy)] == texts


def test_a_server_that_does_not_sample_is_told_of_once(transformers_server, tiny_backbones, caplog):
    engine = open_engine(f"{transformers_server}#{tiny_backbones['llama']}", "", bf16=False)
    for _ in range(2):
        replies = engine.sample(CONTEXTS, 2, max_tokens=4, seed=1)
        assert all(first == second for first, second in replies)
    assert caplog.text.count("does not sample") == 1


def test_a_model_that_is_not_there(transformers_server):
    client = ChatClient(f"{transformers_server}#nobody/nothing", attempts=1)
    with pytest.raises(UserError, match=r"\(status 500: .*\); check the server and its model"):
        client.complete([[{"role": "user", "content": "Hi"}]], [0], max_tokens=4)


def test_mining(transformers_server, sampling, tmp_path):
    (tmp_path / "OffensiveLanguage").mkdir()
    (tmp_path / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text(
        "\n".join(ascii_lowercase)
    )
    out = tmp_path / "mined.jsonl"
    arguments = [
        "--model",
        f"{transformers_server}#{sampling}",
        "--task",
        "prosocial",
        "--judge",
        "words",
    ]
    arguments += ["--set", "prosocial-sample=true", "--synthetic-cap", "0", "--limit", "16"]
    arguments += ["--samples", "3", "--max-tokens", "16", "--concurrency", "3"]
    arguments += ["--datapath", str(tmp_path), "--out", str(out)]
    mined = CliRunner().invoke(mine, arguments)
    assert mined.exit_code == 0, mined.output
    summary = json.loads((tmp_path / "mined.summary.json").read_text())
    counts = summary["sources"]["sampled"]
    assert (summary["contexts"], counts["replies"]) == (16, 48)
    assert counts.get("missing reply", 0) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert summary["rows"] == len(rows) > 0
    assert sum(len(row["negatives"]) for row in rows) >= counts["kept, unsafe"] > 0
    checked = CliRunner().invoke(data, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    assert ", 0 bad" in checked.output
