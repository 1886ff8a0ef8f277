import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from parlai_prosocial.util.hub import HUB_PATIENCE, answers


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_server_is_given_up_within_the_patience(silent_server):
    begin = time.monotonic()
    assert not answers(silent_server, patience=0.3)
    assert time.monotonic() - begin < 2


def test_a_closed_port_is_noticed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not answers(f"http://127.0.0.1:{port}")


def test_an_error_is_an_answer():
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        Thread(target=server.handle_request, daemon=True).start()
        assert answers(f"http://127.0.0.1:{server.server_port}")


def test_a_name_that_is_never_resolved_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(2))
    begin = time.monotonic()
    assert not answers("http://hub.example", patience=0.3)
    assert time.monotonic() - begin < 1.5


def test_the_default_patience_is_below_ten_seconds():
    assert HUB_PATIENCE < 10
