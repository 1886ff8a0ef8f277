"""OpenVINO beside torch: when it is taken, that its replies are the model's, what seeds promise.

What asks for the package itself is skipped where that is not installed; a program that speaks as
its process does stands in elsewhere.
"""

import importlib.util
import json
from collections import Counter

import pytest
import torch

from parlai_prosocial.engines import engine as engines
from parlai_prosocial.engines import openvino as module
from parlai_prosocial.engines.engine import as_begun, open_engine, taken
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.openvino import CHECKED, CHECKED_TOKENS, OpenVINOEngine
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import save_checkpoint
from parlai_prosocial.zoo.resolve import open_generator

CONTEXTS = ["I like walking.", "Hi\nHello there\nHow are you?", "What do you like?"]
FAKE = """
import json, pathlib, sys
here = pathlib.Path(__file__)
replies = json.loads(here.with_suffix(".json").read_text())
for line in sys.stdin:
    asked = json.loads(line)
    with here.with_suffix(".log").open("a") as log:
        log.write(line)
    if "model" in asked:
        answer = {"version": "fake"}
        if not pathlib.Path(asked["model"]).read_bytes().startswith(b"GGUF"):
            answer = {"error": "no GGUF file"}
    elif asked["temperature"] == 0:
        answer = {"replies": [[replies[str(ids)]] * asked["n"] for ids in asked["contexts"]]}
    else:
        answer = {"replies": [
            [[3 + (seed + k) % 300, 2] for k in range(asked["n"])] for seed in asked["seeds"]
        ]}
    print(json.dumps(answer), flush=True)
"""
real = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None, reason="openvino-genai is not installed"
)


@pytest.fixture(scope="module")
def greedy(tiny_backbones):
    """Our greedy replies to the contexts of the check, by their token ids."""
    ours = TransformersEngine(open_generator(tiny_backbones["llama"], "--model").backbone, "tiny")
    encoded = ours._encode(CHECKED, CHECKED_TOKENS)
    found = ours._sample_ids(CHECKED, encoded, 1, CHECKED_TOKENS, 0, 0.0, 1.0)
    return {str(context): ids for context, [ids] in zip(encoded, found, strict=True)}


@pytest.fixture
def fake(tmp_path, monkeypatch, greedy):
    """The program that stands in; ``fake.with_suffix(".json")`` holds what it answers."""
    file = tmp_path / "fake.py"
    file.write_text(FAKE)
    file.with_suffix(".json").write_text(json.dumps(greedy))
    file.with_suffix(".log").touch()
    monkeypatch.setattr(module.openvino_child, "__file__", str(file))
    monkeypatch.setattr(module, "installed", lambda: True)
    monkeypatch.setattr(engines, "installed", lambda: True)
    monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(module.metadata, "version", lambda name: "2026.4.1.0")
    return file


def asked(fake):
    return list(map(json.loads, fake.with_suffix(".log").read_text().splitlines()))


def opened(tiny_backbones, tmp_path, model="llama", **more):
    return open_engine(
        str(tiny_backbones[model]), str(tmp_path / "data"), **{"bf16": False, **more}
    )


def test_auto_takes_it_where_greedy_replies_are_equal_and_checks_once(
    fake, tiny_backbones, tmp_path
):
    first = opened(tiny_backbones, tmp_path, bf16=True)
    assert isinstance(first, OpenVINOEngine)
    checked, check, running = asked(fake)
    assert not checked["bf16"] and running["bf16"]
    assert (check["temperature"], len(check["contexts"])) == (0, 20)
    assert isinstance(opened(tiny_backbones, tmp_path), OpenVINOEngine)
    assert len(asked(fake)) == 4  # opened once more, not checked
    assert [p.suffix for p in (tmp_path / "data").rglob("*") if p.is_file()] == [".json"]
    assert taken("auto", str(tiny_backbones["llama"]), str(tmp_path / "data"), False) == "openvino"


@pytest.mark.parametrize(("changed", "is_taken"), [(1, True), (20, False)])
def test_auto_leaves_it_where_they_differ(
    fake, greedy, tiny_backbones, tmp_path, caplog, changed, is_taken
):
    differing = {context: list(ids) for context, ids in greedy.items()}
    for ids in list(differing.values())[:changed]:
        ids[-1] = 5 if ids[-1] != 5 else 6
    fake.with_suffix(".json").write_text(json.dumps(differing))
    for _ in range(2):
        found = opened(tiny_backbones, tmp_path)
        assert isinstance(found, OpenVINOEngine) == is_taken
    assert ("below 99 %; sampling with transformers" in caplog.text) != is_taken
    assert sum("temperature" in message for message in asked(fake)) == 1
    name = taken("auto", str(tiny_backbones["llama"]), str(tmp_path / "data"), False)
    assert name == ("openvino" if is_taken else "transformers")


def test_auto_goes_on_without_one_that_dies(fake, tiny_backbones, tmp_path, caplog):
    fake.write_text("import os, signal; input(); os.kill(os.getpid(), signal.SIGFPE)")
    assert type(opened(tiny_backbones, tmp_path)) is TransformersEngine
    assert "its process ended of SIGFPE" in caplog.text
    with pytest.raises(UserError, match=r"ended of SIGFPE; .* or give --engine transformers$"):
        opened(tiny_backbones, tmp_path, engine="openvino")


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_only_what_our_gguf_writer_takes(fake, tiny_backbones, tmp_path, model):
    assert type(opened(tiny_backbones, tmp_path, model)) is TransformersEngine
    with pytest.raises(UserError, match=f"is a {model}, and only Llama-shaped .* transformers$"):
        opened(tiny_backbones, tmp_path, model, engine="openvino")
    assert asked(fake) == []


def test_auto_is_ours_on_a_gpu_and_where_it_is_not_installed(
    fake, tiny_backbones, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "best_device", lambda: torch.device("cuda"))
    assert type(opened(tiny_backbones, tmp_path)) is TransformersEngine
    monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(module, "installed", lambda: False)
    assert type(opened(tiny_backbones, tmp_path)) is TransformersEngine
    with pytest.raises(UserError, match=r"is not installed; pip install .*\[openvino\]"):
        opened(tiny_backbones, tmp_path, engine="openvino")
    with pytest.raises(UserError, match="--engine gguf: use auto, transformers or openvino"):
        opened(tiny_backbones, tmp_path, engine="gguf")
    assert asked(fake) == []


def test_replies_and_names_and_scores(fake, tiny_backbones, tmp_path):
    ours = opened(tiny_backbones, tmp_path, engine="transformers", system_prompt="Warn!")
    theirs = opened(tiny_backbones, tmp_path, engine="openvino", system_prompt="Warn!")
    assert theirs.name == ours.name + "+openvino"
    together = theirs.sample(CONTEXTS, 3, 8, seed=1)
    assert theirs.sample(CONTEXTS[::-1], 3, 8, seed=1) == together[::-1]
    assert [theirs.sample([c], 3, 8, seed=1)[0] for c in CONTEXTS] == together
    assert theirs.sample(CONTEXTS, 3, 8, seed=2) != together
    assert theirs.sample([], 3, 8, seed=2) == []
    assert all(reply.ended for replies in together for reply in replies)
    assert asked(fake)[1]["contexts"] == ours._encode(CONTEXTS, 8)
    assert theirs.mean_log_probs([(CONTEXTS[0], ["Hi"])]) == ours.mean_log_probs(
        [(CONTEXTS[0], ["Hi"])]
    )


def test_a_run_goes_on_with_what_it_began_with():
    assert as_begun("auto", None) == "auto"
    assert as_begun("auto", "m@1234") == "transformers"
    assert as_begun("auto", "m@1234+openvino") == "openvino"
    assert as_begun("transformers", "m@1234+openvino") == "transformers"
    assert taken("transformers", "no model", "", False) == "transformers"


@pytest.fixture(scope="module")
def pair(tiny_backbones, tmp_path_factory):
    """A model with an adapter in both engines."""
    place = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    adapted = Backbone(tiny_backbones["llama"], lora_rank=2, system_prompt="Own.")
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    info = {"backbone": str(tiny_backbones["llama"]), "system_prompt": "Own."}
    save_checkpoint(str(place / "model"), adapted, info, {})
    return [
        open_engine(str(place / "model"), str(place), False, engine=name)
        for name in ("transformers", "openvino")
    ]


@real
def test_its_greedy_replies_are_ours(pair):
    ours, theirs = pair
    assert theirs.sample(CONTEXTS, 2, 12, 0, temperature=0) == ours.sample(
        CONTEXTS, 2, 12, 0, temperature=0
    )


@real
def test_its_replies_belong_to_seed_and_context(pair):
    _, theirs = pair
    together = theirs.sample(CONTEXTS, 3, 8, seed=1)
    assert theirs.sample(CONTEXTS, 3, 8, seed=1) == together
    assert theirs.sample(CONTEXTS[::-1], 3, 8, seed=1)[::-1] == together
    assert [theirs.sample([c], 3, 8, seed=1)[0] for c in CONTEXTS] == together
    assert theirs.sample(CONTEXTS, 3, 8, seed=2) != together
    assert len({reply.text for reply in together[0]}) == 3


@real
def test_it_draws_from_the_nucleus(pair):
    """First tokens have the frequencies that our own probabilities give them."""
    ours, theirs = pair
    [context] = ours._encode(CONTEXTS[:1], 4)
    with torch.no_grad():
        logits = ours.backbone.lm(input_ids=torch.tensor([context])).logits[0, -1]
    probs = (logits / 0.7).softmax(-1)
    order = probs.argsort(descending=True)
    inside = order[: int((probs[order].cumsum(0) < 0.8).sum()) + 1]
    draws = theirs._sample_ids(CONTEXTS[:1], [context], 2000, 1, 3, 0.7, 0.8)[0]
    counts = Counter(ids[0] for ids in draws)
    assert set(counts) <= set(inside.tolist())
    for i in inside.tolist():
        assert counts[i] / 2000 == pytest.approx(float(probs[i] / probs[inside].sum()), abs=0.05)
