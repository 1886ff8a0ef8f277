"""Bases of every family that people have: train, resume, reply, evaluate, export."""

import json

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file
from parlai.core.message import Message
from parlai.scripts.train_model import TrainModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from parlai_prosocial import Prosocial, evaluate
from parlai_prosocial.engines.engine import SampledReply
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import Checkpoint
from parlai_prosocial.zoo.resolve import open_generator

LENGTH = 10
# The user's turn only, a system turn, an assistant who begins, and one that must be cut.
CONTEXTS = [
    "Hi!",
    "rule of thumb: It is good to rest.\nI feel tired today.",
    "your persona: I walk my dog.\nhello there\nWhat do you do?",
    "\n".join(f"I like to walk in the park, {i} times." for i in range(30)),
]


@pytest.fixture(scope="session", autouse=True)
def datapath(own_datapath):
    return own_datapath


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "own.jsonl"
    rows = [
        {
            "context": context.split("\n"),
            "response": "You could rest, and drink some water.",
            "negatives": ["I like to steal."],
            "split": split,
        }
        for split in ("train", "valid", "test")
        for context in CONTEXTS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def train(own_data):
    def run(model_file, base, **settings):
        options = {
            "model": "prosocial",
            "task": "prosocial:Own",
            "prosocial_data": str(own_data),
            "model_file": str(model_file),
            "backbone": str(base),
            "precision": "fp32",
            "batchsize": 2,
            "learningrate": 1e-2,
            "lr_scheduler": "none",
            "label_truncate": LENGTH,
            "text_truncate": 96,
            "validation_every_n_steps": 2,
            "validation_metric": "loss",
            "save_after_valid": True,
            "skip_generation": True,
            "log_every_n_steps": 1,
        }
        return TrainModel.main(**options | settings)

    return run


@pytest.fixture(scope="session")
def tuned(family, base_of, train, tmp_path_factory):
    """The file of a LoRA model of the family, trained, stopped and resumed."""
    file = tmp_path_factory.mktemp("tuned") / "model"
    train(file, base_of(family), lora_rank=2, max_train_steps=2)
    assert Checkpoint(str(file)).training_state()["number_training_updates"] == 2
    train(file, base_of(family), lora_rank=2, max_train_steps=4)
    return file


@pytest.fixture(scope="session")
def greedy(tuned):
    """What the agent replies to the contexts."""
    agent = create_agent_from_model_file(str(tuned), {"skip_generation": False})
    return agent_replies(agent)


def agent_replies(agent, contexts=CONTEXTS):
    messages = [Message({"text": context, "episode_done": True}) for context in contexts]
    seen = [agent.clone().observe(message) for message in messages]
    return [act.get("text") for act in agent.batch_act(seen)]


def test_a_resumed_run_has_moved(tuned, family, base_of):
    checkpoint = Checkpoint(f"{tuned}.checkpoint")
    assert checkpoint.training_state()["number_training_updates"] > 2
    base = Backbone(base_of(family), trainable=False)
    opened = open_generator(str(tuned)).backbone
    context = base.prompt.encode_context(CONTEXTS[0])
    reply = base.prompt.encode_response("You could rest.")
    before, after = (
        b(b.pack([context], [[reply]]).to(b.device)).mean_log_probs() for b in (base, opened)
    )
    assert torch.isfinite(after).all() and not torch.equal(before, after)


@pytest.mark.parametrize("family", ["qwen2.5", "mistral", "smollm2", "gpt2", "t5"])
def test_all_weights_can_be_trained(family, base_of, train, tmp_path):
    train(tmp_path / "model", base_of(family), lora_rank=0, max_train_steps=2)
    backbone = open_generator(str(tmp_path / "model")).backbone
    base = Backbone(base_of(family), trainable=False)
    moved = [
        (a - b).abs().max()
        for a, b in zip(backbone.lm.parameters(), base.lm.parameters(), strict=True)
    ]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("family", ["gemma3-images"], scope="session")
@pytest.mark.parametrize("rank", [0, 2])
def test_what_sees_images_is_not_trained(family, rank, base_of):
    """All that is trained has a gradient: distributed training waits for each."""
    backbone = Backbone(base_of(family), lora_rank=rank)
    batch = backbone.pack([backbone.prompt.encode_context("Hi!")], [[[5, 6, 7]]])
    backbone(batch).log_probs().sum().backward()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert trained and not any("vision" in name for name in trained)


def test_prompts_begin_once_and_hold_what_is_said(family, families, base_of):
    backbone = Backbone(base_of(family), trainable=False)
    prompt = backbone.prompt
    first, _ = families[family].around or ("", "")
    for context in CONTEXTS[:3]:
        ids = prompt.encode_context(context)
        if first:
            assert ids.count(prompt.tokenizer.convert_tokens_to_ids(first)) == 1
        text = prompt.tokenizer.decode(ids)
        for line in context.split("\n"):
            assert line in text
        assert (prompt.system_prompt in text) == (families[family].template is not None)


def test_engine_and_agent_reply_alike(tuned, greedy):
    opened = open_generator(str(tuned))
    engine = TransformersEngine(opened.backbone, "tiny", max_context_tokens=96)
    replies = engine.sample(CONTEXTS, 1, LENGTH, 0, temperature=0.0)
    assert [reply.text for [reply] in replies] == greedy
    assert len(set(greedy)) > 1


class Said:
    """Makes a model say tokens of ours, one a step, whatever it reads."""

    def __init__(self, backbone, tokens):
        self.ids = backbone.prompt.tokenizer.convert_tokens_to_ids(list(tokens))
        self.left = list(self.ids)
        self.handle = backbone.lm.get_output_embeddings().register_forward_hook(self.say)

    def say(self, module, inputs, logits):
        forced = torch.full_like(logits, -50.0)
        forced[..., self.left.pop(0)] = 50.0
        return forced

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()
        assert not self.left


def said_by_both(model_file, tokens):
    """What agent and engine make of a model's tokens, to which nothing may be added."""
    agent = create_agent_from_model_file(str(model_file), {"skip_generation": False})
    engine = TransformersEngine(agent.backbone, "tiny", max_context_tokens=96)
    with Said(agent.backbone, tokens):
        [text] = agent_replies(agent, CONTEXTS[:1])
    with Said(agent.backbone, tokens):
        [[reply]] = engine.sample(CONTEXTS[:1], 1, LENGTH, 0, temperature=0.0)
    return text, reply


def test_every_stop_token_ends_a_reply(family, families, tuned):
    prompt = open_generator(str(tuned)).backbone.prompt
    stops = families[family].stops
    ids = prompt.tokenizer.convert_tokens_to_ids(list(stops))
    assert prompt.end_of_turn_id == ids[0] and sorted(prompt.stop_ids) == sorted(ids)
    for stop in stops:
        assert said_by_both(tuned, ["o", "o", stop]) == ("oo", SampledReply("oo", True))


@pytest.mark.parametrize("family", ["qwen3"], scope="session")
def test_thoughts_are_no_reply(family, families, tuned):
    opened, closed = families[family].added
    tokens = [opened, "a", closed, "o", families[family].stops[0]]
    assert said_by_both(tuned, tokens) == ("o", SampledReply("o", True))
    assert said_by_both(tuned, [opened, *"a" * (LENGTH - 1)]) == (None, None)


def test_it_can_be_evaluated(tuned, tmp_path):
    found = evaluate(
        {"tuned": str(tuned)}, "casual", limit=2, max_tokens=LENGTH, out=tmp_path / "e"
    )
    assert not found.faults
    lines = (tmp_path / "e" / "log.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 2
    assert all(json.loads(line)["reply"] is not None for line in lines)


def test_what_was_exported_replies_alike_here_and_in_transformers(tuned, greedy, tmp_path):
    opened = open_generator(str(tuned))
    prompt = opened.backbone.prompt
    limit = opened.backbone.context_limit(96, LENGTH)
    contexts = [prompt.encode_context(context, limit) for context in CONTEXTS]
    export_model(opened, tmp_path / "out")
    again = open_generator(str(tmp_path / "out"))
    assert again.backbone.prompt.stop_ids == prompt.stop_ids
    replies = [Prosocial(again).reply(context).text for context in CONTEXTS]
    # Word by word: what breaks a line may have a blank beside it, of which one is kept.
    assert [reply.split() for reply in replies] == [reply.split() for reply in greedy]

    auto = AutoModelForSeq2SeqLM if prompt.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for context, reply in zip(contexts, greedy, strict=True):
        ids = torch.tensor([context])
        [written] = model.generate(ids, attention_mask=torch.ones_like(ids))
        new = written[1:] if prompt.is_encoder_decoder else written[len(context) :]
        assert prompt.reply(context, again.backbone.reply_ids(new)) == reply
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hi!"}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == contexts[0]
