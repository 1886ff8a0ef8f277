"""Tiny models to talk to, and the page's server on a port of its own."""

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import torch
import uvicorn

from parlai_prosocial.chat.server import ChatApp, listen
from parlai_prosocial.chat.talking import StreamingModel, Written
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


@pytest.fixture
def visit(browser, serve_app):
    """``visit(url, **context)``: an open tab that has asked nobody else and failed nowhere.

    It is closed before the server ends, of which the page would tell.
    """
    contexts, faults = [], []

    def open_tab(url, **settings):
        context = browser.new_context(accept_downloads=True, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and faults.append(line.text))
        tab.on("dialog", lambda dialog: dialog.accept())
        tab.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "blob:")) or faults.append(request.url)
            ),
        )
        tab.goto(url)
        tab.wait_for_selector("#about:not(:empty)")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def pair(serve_app, open_tiny, classifier):
    """The address of a page with two models and a classifier."""
    return serve_app(ChatApp([open_tiny(), open_tiny("t5")], classifier, "judge")).url


def _settle(tab):
    tab.wait_for_selector("#send:not([disabled])")


def _say(tab, text):
    assert tab.evaluate("document.activeElement.id") == "message"
    tab.keyboard.type(text)
    tab.keyboard.press("Enter")
    _settle(tab)


@pytest.fixture
def settle():
    """``settle(tab)``: wait until no reply is being written."""
    return _settle


@pytest.fixture
def say():
    """``say(tab, text)``: type into what has focus, the message box, and wait for the replies."""
    return _say


@pytest.fixture
def texts():
    """``texts(tab)``: what was said, message by message and reply by reply."""
    return lambda tab: tab.locator(".text").all_inner_texts()


@pytest.fixture
def download():
    """``download(tab, button)``: the text of the file that a button gives."""

    def fetch(tab, button):
        with tab.expect_download() as caught:
            tab.get_by_role("button", name=button).click()
        return Path(caught.value.path()).read_text(encoding="utf-8")

    return fetch


@dataclass
class _Slow:
    """A model whose replies come when they are let go."""

    name: str = "slow"
    go: threading.Event = field(default_factory=threading.Event)

    def reply(self, turns, again=False):
        self.go.wait(60)
        yield Written("Hello.", [])


@pytest.fixture
def slow():
    """``slow()``: a model that waits until its ``go`` is set."""
    return _Slow
