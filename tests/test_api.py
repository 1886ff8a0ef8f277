"""``Prosocial``: the agent's replies by every name of a model, and nothing made up."""

import json
import subprocess
import sys

import pytest
import torch

from parlai_prosocial import Prosocial
from parlai_prosocial.errors import UserError
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import save_checkpoint
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.zoo.resolve import open_classifier, open_generator

HISTORIES = [
    ["Hi!"],
    ["your persona: I sail.", "I feel tired today.", "You could rest.", "Why?"],
]
LENGTH = 12


@pytest.fixture(scope="module")
def trained(tiny_backbones, tmp_path_factory):
    """``trained(name, **opt)``: the file of an adapter with a contrast head."""
    root = tmp_path_factory.mktemp("api")

    def make(name, **opt):
        path = root / "-".join([name, *opt]) / "model"
        if not path.exists():
            backbone = Backbone(tiny_backbones[name], lora_rank=2, contrast_head=True)
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in backbone.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.05)
            info = {"backbone": str(tiny_backbones[name]), "system_prompt": "Be kind."}
            save_checkpoint(str(path), backbone, info, {})
            options = {"model": "prosocial", "label_truncate": LENGTH, "precision": "fp32"} | opt
            path.with_name("model.opt").write_text(json.dumps(options))
        return str(path)

    return make


@pytest.fixture(scope="module")
def judge(tiny_encoder, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("judge") / "model")
    torch.manual_seed(0)
    SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"]).save(path, str(tiny_encoder), {})
    return path


def agent_texts(path):
    from parlai.core.agents import create_agent
    from parlai.core.message import Message
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(True, True)
    agent = create_agent(parser.parse_kwargs(model="prosocial", model_file=path, datatype="valid"))
    texts = []
    for history in HISTORIES:
        agent.reset()
        agent.observe(Message({"text": "\n".join(history), "episode_done": True}))
        texts.append(agent.act()["text"])
    return texts


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "blenderbot"])
def test_replies_are_the_agents_before_and_after_export(trained, tmp_path, name):
    path = trained(name)
    expected = [" ".join(text.split("\n")) for text in agent_texts(path)]
    assert all(expected)
    export_model(open_generator(path), tmp_path / "out")
    for model in (path, tmp_path / "out"):
        prosocial = Prosocial.from_pretrained(model)
        assert [prosocial.reply(history).text for history in HISTORIES] == expected
        assert prosocial.reply("\n".join(HISTORIES[1])).text == expected[1]


def test_without_a_judge_and_a_writer_nothing_is_made_up(trained, tiny_backbones):
    reply = Prosocial.from_pretrained(trained("llama")).reply(["Hi!"])
    assert (reply.rots, reply.safety, reply.turn_safety, reply.turn_label) == (None,) * 4
    assert set(reply.scores) == {"mean_log_p", "cosine"}
    assert reply.scores["mean_log_p"] < 0
    assert -1 <= reply.scores["cosine"] <= 1
    plain = Prosocial.from_pretrained(tiny_backbones["llama"]).reply(["Hi!"])
    assert set(plain.scores) == {"mean_log_p"}


def test_scores_are_those_of_a_pass_by_hand(trained):
    model = Prosocial.from_pretrained(trained("llama"))
    reply = model.reply(["Hi!"])
    backbone = model.model.backbone
    context = backbone.prompt.encode_context("Hi!")
    ids = backbone.reply_ids(
        backbone.generate([context], LENGTH, do_sample=False, num_beams=1, min_new_tokens=1)[0]
    )
    output = backbone.lm(torch.tensor([context + ids]), output_hidden_states=True)
    log_probs = output.logits[0, len(context) - 1 : -1].log_softmax(-1)
    mean = log_probs.gather(1, torch.tensor(ids)[:, None]).mean()
    assert reply.scores["mean_log_p"] == pytest.approx(mean.item(), abs=1e-4)
    states = output.hidden_states[-1][0]
    response = states[len(context) : -1].mean(0)
    head = backbone.contrast_head
    cosine = torch.cosine_similarity(
        head.context(states[len(context) - 1]), head.response(response), dim=0
    )
    assert reply.scores["cosine"] == pytest.approx(cosine.item(), abs=1e-4)


def test_the_classifier_judges_the_reply_and_the_turn(trained, judge):
    model = Prosocial.from_pretrained(trained("llama"), classifier=judge)
    reply = model.reply(["I feel tired.", "Rest.", "Why?"])
    classifier = open_classifier(judge)
    dialogue = "I feel tired.\nRest.\nWhy?"
    for judgement, context, line in (
        (reply.safety, dialogue, reply.text),
        (reply.turn_safety, "I feel tired.\nRest.", "Why?"),
    ):
        expected = classifier.probabilities([context], [line])[0].tolist()
        assert list(judgement.probabilities.values()) == pytest.approx(expected)
        assert list(judgement.probabilities) == ["__ok__", "__notok__"]
        assert judgement.label == max(judgement.probabilities, key=judgement.probabilities.get)


def test_a_writers_rules_go_into_the_context(trained, monkeypatch):
    model = Prosocial.from_pretrained(trained("llama"), rot_model=trained("gpt2"))
    texts = []
    original = model.model.backbone.prompt.encode_context

    def encode(text, *args):
        texts.append(text)
        return original(text, *args)

    monkeypatch.setattr(model.model.backbone.prompt, "encode_context", encode)

    def writes(text):
        monkeypatch.setattr(model.rot_model.backbone.prompt, "reply", lambda context, ids: text)
        return model.reply(["Shall I lie?"])

    reply = writes("__needs_caution__\nrule of thumb: Don't lie.\nrule of thumb: Be kind.")
    assert reply.rots == ["Don't lie.", "Be kind."]
    assert reply.turn_label == "__needs_caution__"
    assert texts[-1] == "rule of thumb: Don't lie.\nrule of thumb: Be kind.\nShall I lie?"
    reply = writes("__casual__")
    assert (reply.rots, reply.turn_label, texts[-1]) == ([], "__casual__", "Shall I lie?")
    reply = writes("walk in the park")
    assert (reply.rots, reply.turn_label, texts[-1]) == (None, None, "Shall I lie?")


def test_a_model_that_writes_its_own_rules(trained, monkeypatch):
    """As one trained on ``prosocial:RotResponse`` does."""
    model = Prosocial.from_pretrained(trained("llama"))
    written = "rule of thumb: Don't lie.\nPlease tell them.\nToday."
    monkeypatch.setattr(model.model.backbone.prompt, "reply", lambda context, ids: written)
    reply = model.reply(["Shall I lie?"])
    assert reply.rots == ["Don't lie."]
    assert reply.text == "Please tell them. Today."


def test_decoding_is_that_of_training(trained):
    model = Prosocial.from_pretrained(trained("llama", inference="nucleus", rerank=3))
    torch.manual_seed(0)
    first = [model.reply(["Hi!"]).text for _ in range(4)]
    assert len(set(first)) > 1
    torch.manual_seed(0)
    assert [model.reply(["Hi!"]).text for _ in range(4)] == first


def test_an_empty_turn_of_the_history_stays_one(trained, monkeypatch):
    model = Prosocial.from_pretrained(trained("llama"))
    asked = []
    answer = Prosocial._answer
    monkeypatch.setattr(
        Prosocial,
        "_answer",
        lambda self, m, lines, n: asked.append(lines) or answer(self, m, lines, n),
    )
    model.reply(["Hi!", "", "Are you there?"])
    model.reply("\nHi!\n\nAre you there?\n")  # a text's blank lines are none
    assert asked == [["Hi!", "", "Are you there?"], ["Hi!", "Are you there?"]]


def test_mistakes_are_named(trained, judge, tmp_path):
    model = Prosocial.from_pretrained(trained("llama"))
    for history in ("", [], ["  ", "\n"]):
        with pytest.raises(UserError, match="history: is empty"):
            model.reply(history)
    with pytest.raises(UserError, match=r"history: turn 2 is 3, a int; give texts only"):
        model.reply(["a", 3])
    with pytest.raises(UserError, match=r"model .*nowhere/model/file: no such model"):
        Prosocial.from_pretrained(tmp_path / "nowhere/model/file")
    with pytest.raises(UserError, match=r"model .*: is a safety classifier .*give a model that"):
        Prosocial.from_pretrained(judge)
    with pytest.raises(UserError, match=r"classifier .*not a checkpoint of -m prosocial/c"):
        Prosocial.from_pretrained(trained("llama"), classifier=trained("llama"))
    with pytest.raises(UserError, match=r"Prosocial\('folder'\): open .*from_pretrained\('folder'"):
        Prosocial("folder")


CHECK = """
import sys
import parlai_prosocial
assert not {"torch", "transformers", "parlai"} & set(sys.modules)
text = parlai_prosocial.Prosocial.from_pretrained(sys.argv[1]).reply(["Hi!"]).text
assert "parlai.core" not in " ".join(sys.modules), "ParlAI was imported"
print(text)
"""


def test_an_exported_folder_needs_no_parlai(trained, tmp_path):
    path = trained("llama")
    export_model(open_generator(path), tmp_path / "out")
    expected = Prosocial.from_pretrained(path).reply(["Hi!"]).text
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected.strip()


def test_a_thought_without_an_end_is_a_missing_reply(trained, judge, monkeypatch):
    model = Prosocial.from_pretrained(trained("llama"), classifier=judge)
    backbone = model.model.backbone
    ids = backbone.prompt.tokenizer("<think>They", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(backbone, "generate", lambda *_, **__: torch.tensor([ids]))
    reply = model.reply(["Hi!"])
    assert reply.text is None and reply.safety is None and reply.turn_safety is not None
