"""What people are shown of a turn, and what stays out of the conversation."""

import pytest
import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.zoo.resolve import open_classifier

WRITTEN = "rule of thumb: You should be kind.\nrule of thumb: Ask first.\nMay I?"


@pytest.fixture(scope="module")
def judge(tiny_encoder, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("judge") / "model")
    torch.manual_seed(0)
    SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"]).save(path, str(tiny_encoder), {})
    return path


@pytest.fixture
def reply_of(make_agent, monkeypatch):
    """``reply_of(in_terminal, **opt)``: the agent, and its message where it writes WRITTEN."""
    from parlai.core.message import Message

    def reply(in_terminal=False, said="Hi!\nHello.\nWhere is it?", **opt):
        agent = make_agent("llama", datatype="valid", **opt)
        if in_terminal:
            agent.opt["interactive_task"] = True  # as `parlai interactive` does
        agent.observe(Message({"id": "you", "text": said, "episode_done": False}))
        written = Message({"id": "Prosocial", "text": WRITTEN, "episode_done": False})
        monkeypatch.setattr(agent, "batch_act", lambda observations: [written])
        return agent, agent.act()

    return reply


def test_rules_of_thumb_are_not_said(reply_of):
    agent, message = reply_of(interactive_mode=True, in_terminal=True)
    assert message["text"] == "May I?"
    assert "written_rots" not in message
    assert agent.history.get_history_str().endswith("Where is it?\nMay I?")


def test_terminals_show_fields(reply_of, judge):
    shown = {"show_rot": True, "show_safety": True, "safety_model": judge}
    _, message = reply_of(interactive_mode=True, in_terminal=True, **shown)
    assert message["text"] == "May I?"
    assert message["written_rots"] == ["You should be kind.", "Ask first."]
    classifier = open_classifier(judge)
    expected = classifier.probabilities(
        ["Hi!\nHello.", "Hi!\nHello.\nWhere is it?"], ["Where is it?", "May I?"]
    )
    for name, row in zip(("message_safety", "reply_safety"), expected, strict=True):
        label, probability = message[name].split()
        assert label == classifier.labels[row.argmax()]
        assert float(probability) == pytest.approx(row.max().item(), abs=0.006)


def test_where_there_is_only_text_it_stands_below_the_reply(reply_of, judge):
    shown = {"show_rot": True, "show_safety": True, "safety_model": judge}
    agent, message = reply_of(interactive_mode=True, **shown)
    text, rot, own, reply = message["text"].split("\n")
    assert (text, rot) == ("May I?", "[rule of thumb: You should be kind.; Ask first.]")
    assert own.startswith("[safety of your message: __")
    assert reply.startswith("[safety of the reply: __")
    assert agent.history.get_history_str().endswith("\nMay I?")


def test_evaluation_gets_what_was_written(reply_of):
    _, message = reply_of(show_rot=True)
    assert message["text"] == WRITTEN


def test_a_clone_judges_too(make_agent, judge):
    agent = make_agent("llama", datatype="valid", show_safety=True, safety_model=judge)
    assert agent.clone().shown.safety is agent.shown.safety is not None


def test_no_label_without_a_classifier(make_agent):
    with pytest.raises(UserError, match=r"--show-safety: needs a classifier.*--safety-model"):
        make_agent("llama", datatype="valid", show_safety=True)
