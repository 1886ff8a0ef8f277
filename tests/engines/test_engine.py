"""Sampling: the right distribution, a context's own randomness, and one interface for two kinds."""

from collections import Counter

import pytest
import torch

from parlai_prosocial.engines import local as module
from parlai_prosocial.engines import nucleus, refill
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.local import TransformersEngine, sample_replies
from parlai_prosocial.engines.nucleus import nucleus_tokens
from parlai_prosocial.engines.refill import Refilled
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, SAMPLING, SampledReply
from parlai_prosocial.engines.served import ChatClient, OpenAIEngine
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import save_checkpoint
from parlai_prosocial.zoo import resolve

CONTEXTS = [
    "I like walking.",
    "Hi\nHello there\nHow are you? I walked in the park with my dog, and then I had to rest.",
    "your persona: I sail.\nWhat do you like?",
]
NAMES = ["llama", "gpt2", "t5", "blenderbot"]


@pytest.fixture(scope="module")
def backbones(tiny_backbones):
    return {name: Backbone(tiny_backbones[name], trainable=False) for name in NAMES}


@pytest.fixture(params=NAMES)
def backbone(request, backbones):
    return backbones[request.param]


@torch.no_grad()
def naive_reply(backbone, context, uniforms, temperature, top_p):
    """One reply without cache, padding or batch, by sorting in plain Python."""
    given = backbone.prompt.encode_context(context)
    ids = []
    for uniform in uniforms.tolist():
        if backbone.is_encoder_decoder:
            start = backbone.lm.config.decoder_start_token_id
            output = backbone.lm(
                input_ids=torch.tensor([given]), decoder_input_ids=torch.tensor([[start, *ids]])
            )
        else:
            output = backbone.lm(input_ids=torch.tensor([given + ids]))
        probs = (output.logits[0, -1] / temperature).softmax(-1).tolist()
        order = sorted(range(len(probs)), key=lambda i: -probs[i])
        nucleus, mass = [], 0.0
        for i in order:
            if mass >= top_p:
                break
            nucleus.append(i)
            mass += probs[i]
        target = uniform * mass
        for i in nucleus:
            target -= probs[i]
            if target < 0:
                break
        ids.append(i)
        if i in backbone.prompt.stop_ids:
            break
    return ids


def test_replies_are_those_of_a_naive_loop(backbone, monkeypatch):
    settings = {"temperature": 0.4, "top_p": 0.9}
    uniforms = {(c, k): module._uniforms(3, c, k, 20) for c in CONTEXTS for k in range(4)}
    monkeypatch.setattr(backbone.prompt, "stop_ids", [])
    whole = {key: naive_reply(backbone, key[0], u, **settings) for key, u in uniforms.items()}
    # Random models seldom end a turn: let a token do so that most of these replies hold.
    holders = Counter(token for ids in whole.values() for token in set(ids))
    [(end, count)] = holders.most_common(1)
    monkeypatch.setattr(backbone.prompt, "stop_ids", [end])
    assert count >= len(whole) / 4  # so many rows leave the batch

    engine = TransformersEngine(backbone, "tiny")
    replies = engine.sample(CONTEXTS, 4, max_tokens=20, seed=3, **settings)
    for (context, k), ids in whole.items():
        reply = replies[CONTEXTS.index(context)][k]
        if end in ids:
            ids = ids[: ids.index(end) + 1]
        assert reply.text == backbone.prompt.reply([], ids)
        assert reply.ended == (ids[-1] == end)


def test_causal_models_refill_their_rows_and_others_do_not(backbones, monkeypatch):
    refilled = []
    run = Refilled.run
    monkeypatch.setattr(
        Refilled, "run", lambda self, draw: (refilled.append(self.lm), run(self, draw))[1]
    )
    for backbone in backbones.values():
        TransformersEngine(backbone, "tiny").sample(CONTEXTS, 1, 2, 0)
    assert refilled == [backbones["llama"].lm, backbones["gpt2"].lm]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_refilled_rows_reply_as_hugging_faces_generate(backbones, monkeypatch, name, caplog):
    """Greedy and drawn: what shares contexts and refills rows is only faster."""
    settings = [(0.0, 1.0), (0.7, 0.9)]
    engine = TransformersEngine(backbones[name], "tiny")
    fast = [engine.sample(CONTEXTS, 4, 12, 5, *both) for both in settings]
    monkeypatch.setattr(module, "decodes_alike", lambda *_, **__: False)
    engine = TransformersEngine(backbones[name], "tiny")
    assert [engine.sample(CONTEXTS, 4, 12, 5, *both) for both in settings] == fast
    assert caplog.text.count("our attention does not give its numbers") == 1


def test_exact_scores_come_before_hugging_faces_generate(backbones, monkeypatch, caplog):
    fast = TransformersEngine(backbones["llama"], "tiny").sample(CONTEXTS, 2, 6, 0)
    caches = []
    run = Refilled.run
    monkeypatch.setattr(
        Refilled, "run", lambda self, draw: (caches.append(self.cache), run(self, draw))[1]
    )
    monkeypatch.setattr(module, "decodes_alike", lambda *_, exact_scores=False: exact_scores)
    engine = TransformersEngine(backbones["llama"], "tiny")
    assert engine.sample(CONTEXTS, 2, 6, 0) == fast
    assert [cache.exact_scores for cache in caches] == [True]
    assert "our attention does not give its numbers" not in caplog.text


def test_no_window_cuts_what_is_refilled(backbones, monkeypatch):
    engine = TransformersEngine(backbones["llama"], "tiny")
    contexts = engine._encode(CONTEXTS, 8)
    longest = max(map(len, contexts)) + 8
    for window, refills in ((None, True), (longest, True), (longest - 1, False)):
        monkeypatch.setattr(engine.backbone.scorer, "window", window)
        assert engine._refills(contexts, 8) == refills


def test_a_contexts_replies_are_its_own(backbone, monkeypatch):
    engine = TransformersEngine(backbone, "tiny")
    together = engine.sample(CONTEXTS, 3, 8, seed=1)
    assert engine.sample(CONTEXTS[::-1], 3, 8, seed=1)[::-1] == together
    assert [engine.sample([c], 3, 8, seed=1)[0] for c in CONTEXTS] == together
    assert [replies[:2] for replies in together] == engine.sample(CONTEXTS, 2, 8, seed=1)
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 3)
    monkeypatch.setattr(refill, "MOST_ROWS", 3)
    assert engine.sample(CONTEXTS, 3, 8, seed=1) == together
    assert engine.sample(CONTEXTS, 3, 8, seed=2) != together
    assert len({reply.text for reply in together[0]}) == 3


def test_temperature_0_is_greedy(backbone):
    engine = TransformersEngine(backbone, "tiny")
    [[reply]] = engine.sample(CONTEXTS[:1], 1, 6, seed=1, temperature=0.0)
    ids = backbone.generate([backbone.prompt.encode_context(CONTEXTS[0])], 6, do_sample=False)
    assert reply.text == backbone.prompt.reply([], backbone.reply_ids(ids[0]))


@pytest.mark.parametrize("size", [40, 2000])  # below and above what is looked at first
@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_nucleus_frequencies(size, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, generator=generator) * 2
    probs = (logits / temperature).softmax(-1)
    order = probs.argsort(descending=True)
    inside = order[: int((probs[order].cumsum(0) < 0.9).sum()) + 1]
    expected = torch.zeros(size)
    expected[inside] = probs[inside] / probs[inside].sum()
    draws = 4000
    uniforms = torch.rand(draws, generator=generator)
    tokens = nucleus_tokens(logits.expand(draws, -1), uniforms, temperature, 0.9)
    found = torch.bincount(tokens, minlength=size) / draws
    assert set(tokens.tolist()) <= set(inside.tolist())
    assert (found - expected).abs().max() < 0.03


def test_a_draw_is_its_rows_own_and_that_of_a_sort(monkeypatch):
    """Rows that are peaked, flat and flatter: each needs another look."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([8.0, 2.5, 1.5, 0.1]).repeat(8)[:, None]
    logits = (torch.randn(32, 5000, generator=generator) * scales).bfloat16()
    uniforms = torch.rand(32, generator=generator)
    looked = []
    draw = nucleus._drawn
    monkeypatch.setattr(nucleus, "_drawn", lambda *a: (looked.append(a[0].size()), draw(*a))[1])
    for top_p in (0.5, 0.9, 1.0):
        tokens = nucleus_tokens(logits, uniforms, 0.8, top_p)
        alone = [
            nucleus_tokens(logits[i : i + 1], uniforms[i : i + 1], 0.8, top_p) for i in range(32)
        ]
        assert tokens.tolist() == torch.cat(alone).tolist()
        for row, uniform, token in zip(logits.float() / 0.8, uniforms, tokens, strict=True):
            probs, order = row.softmax(-1).sort(descending=True)
            place = order.tolist().index(int(token))
            before = float(probs[:place].sum())
            assert before < top_p
            mass = float(probs[: int((probs.cumsum(0) < top_p).sum()) + 1].sum())
            # Equal probabilities may stand in either order.
            equal = float(probs[probs == probs[place]].sum()) + 1e-4
            assert before - equal <= float(uniform) * mass <= before + equal
    assert {size[1] for size in looked} == {128, 2048, 5000}
    assert torch.Size([8, 5000]) not in looked[: 4 + 32]  # 0.5 is held by less


def test_no_draw_leaves_the_nucleus():
    logits = torch.tensor([[2.0, 1.0, -3.0, -30.0]])
    assert nucleus_tokens(logits, torch.tensor([1.0]), 1.0, 0.5).tolist() == [0]
    assert nucleus_tokens(logits, torch.tensor([0.9999999]), 1.0, 1.0).tolist() != [3]


def test_a_system_prompt_of_its_own(backbones):
    backbone = backbones["llama"]
    plain = TransformersEngine(backbone, "tiny").sample(CONTEXTS, 1, 8, 0)
    told = TransformersEngine(backbone, "tiny", system_prompt="Warn!").sample(CONTEXTS, 1, 8, 0)
    assert told != plain
    assert backbone.prompt.system_prompt != "Warn!"


def test_open_engine_restores_a_checkpoint(tiny_backbones, tmp_path, monkeypatch):
    torch.manual_seed(0)
    adapted = Backbone(tiny_backbones["llama"], lora_rank=2, system_prompt="Own.")
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    info = {"backbone": str(tiny_backbones["llama"]), "system_prompt": "Own."}
    save_checkpoint(str(tmp_path / "model"), adapted, info, {})
    engine = open_engine(str(tmp_path / "model"), str(tmp_path), bf16=False)
    expected = TransformersEngine(adapted, "tiny").sample(CONTEXTS, 2, 8, 0)
    assert engine.sample(CONTEXTS, 2, 8, 0) == expected
    base = open_engine(str(tiny_backbones["llama"]), str(tmp_path), bf16=False)
    assert base.sample(CONTEXTS, 2, 8, 0) != expected
    assert engine.name != base.name

    # An exported folder, and a model of the zoo that is no base.
    (folder,) = tmp_path.glob("model.hf-*")
    exported = open_engine(str(folder), str(tmp_path), bf16=False)
    assert exported.sample(CONTEXTS, 2, 8, 0) == expected
    monkeypatch.setattr(resolve, "install", lambda entry, datapath, say: tmp_path)
    tuned = open_engine("zoo:prosocial/smollm2_135m_rot/model", str(tmp_path), bf16=False)
    assert tuned.sample(CONTEXTS, 2, 8, 0) == expected
    with pytest.raises(UserError, match="zoo:prosocial/nothing: no such model in the zoo"):
        open_engine("zoo:prosocial/nothing", str(tmp_path), bf16=False)


def test_an_address_is_an_engine_too(chat_server, tmp_path):
    def answer(body, _):
        return (400, {}) if "sail" in body["messages"][0]["content"] else (200, f" {body['seed']} ")

    chat_server.answer = answer
    engine = open_engine(chat_server.address, str(tmp_path), bf16=False, system_prompt="Be kind.")
    assert isinstance(engine, OpenAIEngine)
    first, second, failed = engine.sample(CONTEXTS, 2, 8, seed=1, temperature=0.7, top_p=0.9)
    assert failed == [None, None]
    assert all(isinstance(reply, SampledReply) and reply.ended for reply in first + second)
    assert len({reply.text for reply in first + second}) == 4  # a seed for each reply
    assert engine.sample(CONTEXTS[1:2], 2, 8, seed=1, temperature=0.7, top_p=0.9) == [second]

    [body] = [b for b in chat_server.requests if str(b["seed"]) == second[0].text][:1]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][0]["content"] == "Be kind."
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 8)


def test_system_lines_go_to_the_system_turn(chat_server):
    OpenAIEngine(ChatClient(chat_server.address), "Be kind.").sample(CONTEXTS[2:], 1, 8, 0)
    [body] = chat_server.requests
    assert body["messages"] == [
        {"role": "system", "content": "Be kind.\nyour persona: I sail."},
        {"role": "user", "content": "What do you like?"},
    ]


def test_a_server_that_wants_turns_otherwise_is_asked_so(chat_server, caplog):
    """No system turn, or strict turns from the user's on: as folded as it takes, and said."""

    def answer(body, _):
        roles = [m["role"] for m in body["messages"]]
        if "system" in roles or roles[::2] != ["user"] * len(roles[::2]):
            return 400, {"error": {"message": "Conversation roles must alternate"}}
        return 200, body["messages"][0]["content"]

    chat_server.answer = answer
    engine = OpenAIEngine(ChatClient(chat_server.address), "Be kind.")
    first, second, third = engine.sample(["Hi!", "Hello.\nHi!", "your persona: a\nHi!"], 1, 8, 0)
    assert first[0].text == "Be kind.\n\nHi!"
    assert second[0].text == "Be kind."
    assert third[0].text == "Be kind.\nyour persona: a\n\nHi!"
    assert caplog.text.count("Conversation roles must alternate") == 1
    assert not engine.missing


def test_what_is_refused_for_another_reason_is_asked_once(chat_server):
    chat_server.answer = lambda body, _: (400, {"error": "the context is too long"})
    with pytest.raises(UserError, match="the context is too long"):
        OpenAIEngine(ChatClient(chat_server.address)).sample(["Hi!"], 1, 8, 0)
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("<think>Hm.</think>You could rest.<|im_end|>", SampledReply("You could rest.", True)),
        ("Hm.</think>You could rest.", SampledReply("You could rest.", False)),
        ("<think>You could", None),
    ],
)
def test_thoughts_are_no_reply(backbones, monkeypatch, caplog, said, reply):
    ids = backbones["llama"].prompt.tokenizer(said, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(Refilled, "run", lambda self, draw: [[ids]] * len(self.contexts))
    engine = TransformersEngine(backbones["llama"], "tiny")
    assert engine.sample(CONTEXTS[:2], 1, 8, 0) == [[reply]] * 2
    assert engine.missing == ({} if reply else {"a thought without an end within --max-tokens": 2})
    assert caplog.text.count("an answer is missing") == (reply is None)


def test_the_best_of_several_is_one_of_those_that_are_sampled(tiny_backbones):
    torch.manual_seed(0)
    backbone = Backbone(tiny_backbones["llama"], contrast_head=True, trainable=False)
    engine = TransformersEngine(backbone, "tiny")
    several = engine.sample(CONTEXTS, 6, 8, seed=2, top_p=0.9)
    best = engine.sample_best(CONTEXTS, 6, 8, seed=2, top_p=0.9)
    assert all(reply in replies for reply, replies in zip(best, several, strict=True))
    assert best != [replies[0] for replies in several]
    assert sample_replies(backbone, CONTEXTS, 3, False) == [
        reply for [reply] in engine.sample(CONTEXTS, 1, SAMPLED_TOKENS, 3, **SAMPLING)
    ]
    assert sample_replies(backbone, CONTEXTS, 3, False, rerank=4) == engine.sample_best(
        CONTEXTS, 4, SAMPLED_TOKENS, 3, **SAMPLING
    )
