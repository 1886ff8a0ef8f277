"""The page's server: what it answers, to whom, and what it refuses."""

import socket
import subprocess
import sys
import time
import webbrowser
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import pytest
import requests
from click.testing import CliRunner

from parlai_prosocial.chat import server
from parlai_prosocial.chat.server import ChatApp, listen
from parlai_prosocial.cli.chat import chat
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError

EMPTY = {"models": ["a"], "classifier": None, "turns": [], "replaced": []}


def test_setup_and_files(page):
    assert requests.get(page.url + "setup", timeout=30).json() == {
        "models": ["llama"],
        "classifier": "runs/judge/model",
        "largest_turn": 64_000,
    }
    scripts = ("page.js", "dialogs.js", "elements.js", "labels.js", "server.js")
    for path in ("", "page.css", "setup", *scripts):
        response = requests.get(page.url + path, timeout=30)
        assert response.ok
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert response.headers["Cache-Control"] == "no-store"
        # Nothing is fetched from elsewhere.
        assert "//" not in response.text.replace("// ", "").replace("http-equiv", "")


def test_a_reply_streams_and_ends_with_its_label(page):
    lines = page.reply(["Hi!"])
    assert len(lines) > 2
    assert all(set(line) == {"text", "rots"} for line in lines[:-1])
    assert set(lines[-1]) == {"text", "rots", "safety"}
    assert lines[-1]["safety"]["label"] in ("__ok__", "__notok__")
    judged = page.post("judge", {"turns": ["Hi!", lines[-1]["text"]]}).json()
    assert judged == lines[-1]["safety"]


def test_without_a_classifier_there_is_no_label(serve_app, open_tiny):
    page = serve_app(ChatApp([open_tiny(), open_tiny("t5")]))
    assert page.post("judge", {"turns": ["Hi!"]}).json() is None
    assert [page.reply(["Hi!"], model)[-1]["safety"] for model in (0, 1)] == [None, None]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "\u202e\u2066\u05e9\u05dc\u05d5\u05dd",
        "x" * 60_000,
        "\0",
        "\ud800",
    ],
    ids=["script", "bidi", "60kB", "null", "surrogate"],
)
def test_hostile_messages_are_answered(page, text):
    body = {"model": 0, "turns": [text]}
    assert page.post("reply", body).ok
    assert page.post("judge", body).ok


@pytest.mark.parametrize(
    "turns",
    [["x" * 64_001], ["\u00e9" * 32_001], ["x" * 60_000] * 17],
    ids=["turn", "bytes", "all"],
)
def test_more_than_can_be_read_is_refused_before_it_is_tokenised(page, turns):
    for path in ("reply", "judge"):
        response = page.post(path, {"model": 0, "turns": turns})
        assert response.status_code == 413
        assert "bytes" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("judge", b"[" * 100_000 + b"]" * 100_000),
        ("judge", b'{"turns": ["a"], "x": ' + b"9" * 5_000 + b"}"),
        ("judge", b'["a"]'),
        ("judge", b'{"turns": ["a"]'),
        ("judge", b"\xff"),
        ("reply", b'{"model": 0.0, "turns": ["a"]}'),
        ("reply", b'{"model": true, "turns": ["a"]}'),
        ("reply", b'{"model": [], "turns": ["a"]}'),
        ("reply", b'{"model": 0, "turns": "a"}'),
        ("export/conversations", b'{"models": ["m"], "turns": [], "replaced": []}'),
        ("export/conversations", b'{"models": ["m"], "turns": [1], "replaced": 0}'),
        ("export/own", b'{"models": [], "classifier": null, "turns": [], "replaced": []}'),
    ],
)
def test_what_is_no_request_of_the_page_gets_a_word_and_4xx(page, path, body):
    headers = {"Content-Type": "application/json"}
    response = requests.post(page.url + path, data=body, headers=headers, timeout=30)
    assert 400 <= response.status_code < 500
    assert response.json()["error"]


def test_only_this_page_may_ask(page):
    body = {"turns": ["Hi!"]}
    own = page.url.rstrip("/")
    for origin, status in (
        (own, 200),
        (own.replace("127.0.0.1", "localhost"), 200),
        ("http://example.org", 403),
        ("http://localhost:1", 403),
        ("null", 403),
    ):
        headers = {"Origin": origin}
        found = requests.post(page.url + "judge", json=body, headers=headers, timeout=30)
        assert found.status_code == status, origin


def at_once(page, count):
    """The statuses of so many replies that are asked for at the same time."""
    with ThreadPoolExecutor(count) as pool:
        ask = lambda _: page.post("reply", {"model": 0, "turns": ["Hi!"]}).status_code  # noqa: E731
        return Counter(pool.map(ask, range(count)))


def test_replies_asked_for_at_the_same_time_all_come(serve_app, open_tiny):
    # More than the event loop has threads.
    assert at_once(serve_app(ChatApp([open_tiny(label_truncate=3)])), 60) == {200: 60}


def test_too_many_are_told_to_come_again(serve_app, open_tiny, monkeypatch):
    monkeypatch.setattr("parlai_prosocial.chat.server.MOST_WAITING", 2)
    page = serve_app(ChatApp([open_tiny(label_truncate=100, beam_min_length=100)]))
    statuses = at_once(page, 20)
    assert statuses.keys() == {200, 503}
    assert statuses[200] >= 3
    assert page.reply(["Hi!"])[-1]["text"]


def test_a_reply_that_nobody_waits_for_stops(serve_app, open_tiny):
    model = open_tiny(label_truncate=400, beam_min_length=400)
    page = serve_app(ChatApp([model]))
    body = {"model": 0, "turns": ["Hi!"]}
    with requests.post(page.url + "reply", json=body, stream=True, timeout=30) as response:
        next(response.iter_lines())
        assert model._lock.locked()
    deadline = time.monotonic() + 20
    while model._lock.locked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not model._lock.locked()
    assert page.reply(["Hi!"])[-1]["text"]


def test_an_error_of_the_model_reaches_the_page(serve_app, open_tiny, monkeypatch):
    model = open_tiny()

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.backbone, "generate", fail)
    page = serve_app(ChatApp([model]))
    response = page.post("reply", {"model": 0, "turns": ["Hi!"]})
    assert response.text.splitlines()[-1] == '{"error": "llama: out of memory"}'


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("reply", {"model": 1, "turns": ["Hi"]}, "model: give a number from 0 to 0"),
        ("reply", {"model": [], "turns": ["Hi"]}, "model: give a number"),
        ("reply", {"model": 0, "turns": []}, "turns: give a list of texts"),
        ("reply", {"model": 0, "turns": "Hi"}, "turns: give a list of texts"),
        ("judge", [1], "turns: give a list of texts"),
        ("judge", {"turns": ["Hi", " "]}, "turns: the last one is empty"),
        ("export/own", {}, "transcript: not in the page's form"),
    ],
)
def test_bad_requests_are_named(page, path, content, reason):
    response = page.post(path, content)
    assert response.status_code == 400
    assert reason in response.json()["error"]


def test_other_sites_are_refused(page):
    """Neither by another name for this machine, nor by a form, which asks no permission."""
    elsewhere = requests.get(page.url, headers={"Host": "evil.example"}, timeout=30)
    assert elsewhere.status_code == 400
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind}
        form = requests.post(page.url + "export/own", data=b"{}", headers=headers, timeout=30)
        assert form.status_code == 415
    asked = requests.options(
        page.url + "reply",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
        timeout=30,
    )
    assert "Access-Control-Allow-Origin" not in asked.headers


def test_a_request_without_end_is_refused(page, monkeypatch):
    headers = {"Content-Type": "application/json"}
    chunked = requests.post(page.url + "judge", data=iter([b"{}"]), headers=headers, timeout=30)
    assert chunked.status_code == 411
    monkeypatch.setattr(server, "LARGEST_REQUEST", 10)
    assert page.post("judge", {"turns": ["Hi there"]}).status_code == 413
    assert page.post("judge", 5).status_code == 400
    broken = requests.post(page.url + "judge", data=b"{\xff", headers=headers, timeout=30)
    assert broken.status_code == 400


def test_only_this_machine_is_listened_to():
    listening = listen(0)
    assert listening.getsockname()[0] == "127.0.0.1"
    port = listening.getsockname()[1]
    with pytest.raises(UserError, match=f"--port {port}: cannot be had"):
        listen(port)
    listening.close()


def test_three_models_are_too_many():
    with pytest.raises(UserError, match="--model: given 3 times"):
        CliRunner().invoke(chat, ["--model", "a"] * 3, catch_exceptions=False)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "parlai_prosocial.chat.server")
    with pytest.raises(UserError, match=r"needs uvicorn: run `pip install '.*\[chat\]'`"):
        CliRunner().invoke(cli, ["chat", "--model", "a"], catch_exceptions=False)


def test_the_command(tiny_backbones, tmp_path):
    command = ["prosocial", "chat", "--model", str(tiny_backbones["llama"]), "--port", "0"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
    )
    try:
        url = started.stdout.readline().split()[0]
        body = {"model": 0, "turns": ["Hi!"]}
        with requests.post(url + "reply", json=body, stream=True, timeout=60) as response:
            assert response.ok and next(response.iter_lines())
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.1", port)) == 0
    finally:
        started.terminate()
        started.wait(30)


def test_open_shows_the_page_in_the_browser(tiny_backbones, monkeypatch):
    opened, served = Queue(), []
    monkeypatch.setattr(webbrowser, "open", opened.put)
    monkeypatch.setattr(server, "serve", lambda app, listening: served.append(listening))
    command = ["--model", str(tiny_backbones["llama"]), "--port", "0"]
    done = CliRunner().invoke(chat, [*command, "--open"], catch_exceptions=False)
    assert opened.get(timeout=30) == done.stdout.split()[0]
    CliRunner().invoke(chat, command, catch_exceptions=False)
    assert len(served) == 2 and opened.empty()
    for listening in served:
        listening.close()
