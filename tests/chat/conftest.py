"""Tiny models to talk to, and the page's server on a port of its own."""

import json
import threading
import time
from dataclasses import dataclass

import pytest
import requests
import torch
import uvicorn

from parlai_prosocial.chat.server import ChatApp, listen
from parlai_prosocial.chat.talking import StreamingModel
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.zoo.resolve import open_generator

LENGTH = 12


@pytest.fixture(scope="session")
def open_tiny(tiny_backbones):
    """``open_tiny(name, **decoding)``: a StreamingModel over a tiny backbone."""

    def make(name="llama", **decoding):
        opened = open_generator(str(tiny_backbones[name]))
        opened.decoding |= {"label_truncate": LENGTH} | decoding
        return StreamingModel(name, opened)

    return make


@pytest.fixture(scope="session")
def classifier(tiny_encoder):
    torch.manual_seed(0)
    return SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"], trainable=False).eval()


@dataclass
class Page:
    """A running server: its address, and requests to it as the page sends them."""

    url: str

    def post(self, path, content):
        return requests.post(self.url + path, json=content, timeout=60)

    def reply(self, turns, model=0, again=False):
        """All lines of a reply."""
        response = self.post("reply", {"model": model, "turns": turns, "again": again})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
def serve_app(monkeypatch):
    """``serve_app(app)``: a :class:`Page` of a :class:`ChatApp`, served in a thread."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def start(app):
        listening = listen(0)
        server = uvicorn.Server(
            uvicorn.Config(app.starlette(), log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return Page(f"http://127.0.0.1:{listening.getsockname()[1]}/")

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def page(serve_app, open_tiny, classifier):
    """One tiny model, with a classifier."""
    return serve_app(ChatApp([open_tiny()], classifier, "runs/judge/model"))
