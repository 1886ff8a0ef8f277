"""A stand-in for an OpenAI-compatible server on loopback, and tiny engines."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class ChatServer:
    """Speaks ``/v1/chat/completions``.

    Attributes:
        answer: from a request's body and how often it came before, to ``(status, payload)``; a
            text as payload is wrapped as a completion.
        content_type: of its answers.
        requests: the bodies, as they came.
        authorizations: their Authorization headers.
    """

    def __init__(self):
        self.answer = lambda body, before: (200, "Fine.")
        self.content_type = "application/json"
        self.requests, self.authorizations = [], []
        self.seen, self.lock = Counter(), threading.Lock()
        self.running, self.most_running = 0, 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with owner.lock:
                    owner.running += 1
                    owner.most_running = max(owner.most_running, owner.running)
                    owner.requests.append(json.loads(raw) | {"path": self.path})
                    owner.authorizations.append(self.headers["Authorization"])
                    before = owner.seen[raw]
                    owner.seen[raw] += 1
                status, payload = owner.answer(json.loads(raw), before)
                if isinstance(payload, str):
                    message = {"role": "assistant", "content": payload}
                    payload = {"choices": [{"message": message, "finish_reason": "stop"}]}
                content = json.dumps(payload).encode()
                with owner.lock:
                    owner.running -= 1
                self.send_response(status)
                self.send_header("Content-Type", owner.content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that gave up waiting

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1#tiny"


@pytest.fixture
def chat_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = ChatServer()
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="session", autouse=True)
def datapath(tmp_path_factory):
    path = tmp_path_factory.mktemp("parlai_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(path))
        yield path
