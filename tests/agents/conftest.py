"""Agents over the tiny backbones, with a data path of their own."""

from types import SimpleNamespace

import pytest

SMALL = {
    "lora_rank": 0,
    "precision": "fp32",
    "optimizer": "sgd",
    "learningrate": 0.1,
    "gradient_clip": -1,
    "text_truncate": 96,
    "label_truncate": 12,
}


@pytest.fixture(scope="session", autouse=True)
def datapath(tmp_path_factory):
    path = tmp_path_factory.mktemp("parlai_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(path))
        yield path


@pytest.fixture
def make_agent(tiny_backbones):
    """``make_agent("llama", **opt)``: an agent as ParlAI makes it."""

    def make(name="llama", /, **opt):
        from parlai.core.agents import create_agent
        from parlai.core.params import ParlaiParser

        parser = ParlaiParser(True, True)
        opt = {"model": "prosocial", "datatype": "train:ordered", **SMALL, **opt}
        opt.setdefault("backbone", str(tiny_backbones[name]))
        return create_agent(parser.parse_kwargs(**opt))

    return make


@pytest.fixture
def talk():
    """``observe(agent, messages)`` and ``act(agent, messages)``, each message a whole episode."""

    def observe(agent, messages):
        from parlai.core.message import Message

        return [agent.clone().observe(Message(m | {"episode_done": True})) for m in messages]

    def act(agent, messages):
        return agent.batch_act(observe(agent, messages))

    return SimpleNamespace(observe=observe, act=act)
