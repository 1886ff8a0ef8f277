"""Calls to an address: retried, bounded, missing where they fail, and silent about the key."""

import contextlib
import json
import re
import time

import pytest

from parlai_prosocial.engines.completion import Completion
from parlai_prosocial.engines.served import ChatClient
from parlai_prosocial.errors import UserError

HELLO = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]


def client(server, **settings):
    return ChatClient(server.address, **{"attempts": 3, "wait": 0.01, **settings})


def complete(client, conversations=HELLO):
    return client.complete(conversations, range(len(conversations)), max_tokens=7)


def said(body):
    return body["messages"][-1]["content"]


def test_answers_come_in_order_and_carry_the_settings(chat_server):
    chat_server.answer = lambda body, _: (200, "about " + said(body))
    assert complete(client(chat_server)) == [
        Completion(f"about {said_}", True) for said_ in ("one", "two", "three")
    ]
    [body] = [body for body in chat_server.requests if said(body) == "two"]
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["seed"], body["stream"]) == (
        "tiny",
        7,
        1,
        False,
    )
    assert chat_server.authorizations == [None] * 3


def test_a_reply_cut_by_the_limit_has_not_ended(chat_server):
    message = {"message": {"content": "and so"}, "finish_reason": "length"}
    chat_server.answer = lambda body, _: (200, {"choices": [message]})
    assert complete(client(chat_server), HELLO[:1]) == [Completion("and so", False)]


def test_half_a_surrogate_pair_is_replaced(chat_server):
    chat_server.answer = lambda body, _: (200, "so \ud83d")
    assert complete(client(chat_server), HELLO[:1]) == [Completion("so ?", True)]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_passing_failures_are_tried_again(chat_server, status):
    chat_server.answer = lambda body, before: (status, {}) if before < 2 else (200, "Now.")
    assert complete(client(chat_server)) == [Completion("Now.", True)] * 3
    assert len(chat_server.requests) == 9


@pytest.mark.parametrize(
    "payload", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, [1]]
)
def test_an_answer_that_is_no_completion_is_missing_and_not_empty(chat_server, payload):
    chat_server.answer = lambda body, _: (200, payload if said(body) == "two" else "Fine.")
    assert complete(client(chat_server)) == [
        Completion("Fine.", True),
        None,
        Completion("Fine.", True),
    ]


def test_a_bad_request_is_missing_and_not_tried_again(chat_server):
    chat_server.answer = lambda body, _: (400, {}) if said(body) == "two" else (200, "Fine.")
    assert complete(client(chat_server))[1] is None
    assert len(chat_server.requests) == 3


def test_a_server_that_streams_unasked_is_refused_at_once(chat_server):
    chat_server.content_type = "text/event-stream; charset=utf-8"
    with pytest.raises(UserError, match=r"streams its answers although asked not to"):
        complete(client(chat_server), HELLO[:1])
    assert len(chat_server.requests) == 1


def test_a_time_out_is_missing(chat_server):
    def answer(body, _):
        time.sleep(0.5 if said(body) == "two" else 0)
        return 200, "Fine."

    chat_server.answer = answer
    found = complete(client(chat_server, attempts=2, timeout=0.15))
    assert found == [Completion("Fine.", True), None, Completion("Fine.", True)]


def test_calls_at_a_time_are_bounded(chat_server):
    chat_server.answer = lambda body, _: (time.sleep(0.03), (200, "Fine."))[1]
    complete(client(chat_server, concurrency=2), HELLO * 4)
    assert chat_server.most_running == 2


def test_waits_grow(chat_server, monkeypatch):
    waits = []
    monkeypatch.setattr("parlai_prosocial.engines.served.time.sleep", waits.append)
    chat_server.answer = lambda body, _: (500, {})
    with pytest.raises(UserError):
        complete(client(chat_server, attempts=4, wait=1.0), HELLO[:1])
    assert waits == [1.0, 2.0, 4.0]


def test_where_nothing_is_answered_the_server_is_named(chat_server):
    chat_server.answer = lambda body, _: (502, {})
    with pytest.raises(UserError, match=r"none of 3 calls was answered \(status 502\)"):
        complete(client(chat_server))


def test_nobody_there():
    nobody = ChatClient("http://127.0.0.1:9/v1#tiny", attempts=2, wait=0.01)
    with pytest.raises(UserError, match="none of 3 calls was answered"):
        complete(nobody)


@pytest.mark.parametrize(("status", "mend"), [(401, "OPENAI_API_KEY"), (404, "address and name")])
def test_mistakes_stop_at_once(chat_server, status, mend):
    chat_server.answer = lambda body, _: (status, {})
    with pytest.raises(UserError, match=mend):
        complete(client(chat_server), HELLO[:1])
    assert len(chat_server.requests) == 1


def test_the_key_is_sent_and_never_shown(chat_server, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    with caplog.at_level("DEBUG"):
        own = client(chat_server)
        complete(own)
        chat_server.answer = lambda body, _: (401, {})
        with pytest.raises(UserError) as refused:
            complete(own)
    assert set(chat_server.authorizations) == {"Bearer sk-secret"}
    assert "secret" not in caplog.text + str(refused.value) + repr(own)


@pytest.mark.parametrize("key", ["sk\nsecret", "sk secret", "sk-sécret"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as refused:
        ChatClient("http://localhost/v1#tiny")
    assert "cret" not in str(refused.value)


def test_a_netrc_is_left_alone(chat_server, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    complete(client(chat_server), HELLO[:1])
    assert chat_server.authorizations == [None]


@pytest.mark.parametrize(
    ("address", "message"),
    [("http://localhost/v1", "name the model"), ("http://me:pw@localhost/v1#m", "password")],
)
def test_bad_addresses(address, message):
    with pytest.raises(UserError, match=message) as refused:
        ChatClient(address)
    assert "pw" not in str(refused.value)


def answering(chat_server, message, finish="stop"):
    choice = {"message": message, "finish_reason": finish}
    chat_server.answer = lambda body, _: (200, {"choices": [choice]})
    own = client(chat_server)
    return own, lambda: complete(own, HELLO[:1])


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "<think>Hm.</think>\nFine."}, "stop", Completion("\nFine.", True)),
        ({"content": "Fine.", "reasoning_content": "Hm."}, "stop", Completion("Fine.", True)),
        ({"content": [{"type": "text", "text": "Fine."}]}, "eos_token", Completion("Fine.", True)),
        (
            {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Fine."}]},
            "end_turn",
            Completion("Fine.", True),
        ),
        ({"content": None, "refusal": "I can't."}, "stop", Completion("I can't.", True)),
        ({"content": ""}, "stop", Completion("", True)),
    ],
)
def test_the_reply_is_what_is_said_and_not_what_is_thought(chat_server, message, finish, expected):
    _, ask = answering(chat_server, message, finish)
    assert ask() == [expected]


@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        ({"content": None, "reasoning_content": "Hm."}, "length", "--max-tokens.*length"),
        ({"content": None}, "content_filter", "without content .finish_reason content_filter"),
        ({"content": None, "tool_calls": [{}]}, "tool_calls", "a call of a tool"),
        ({"content": "<think>Hm."}, "length", "a thought without an end .*length"),
    ],
)
def test_a_final_answer_without_a_reply_is_not_asked_for_again(
    chat_server, message, finish, reason
):
    own, ask = answering(chat_server, message, finish)
    with pytest.raises(UserError, match=rf"none of 1 calls was answered \(.*{reason}"):
        ask()
    assert len(chat_server.requests) == 1
    assert sum(own.missing.values()) == 1


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"error": {"message": "no system role"}}, "no system role"),
        ({"error": "no system role"}, "no system role"),
        ({"object": "error", "message": "no system role"}, "no system role"),
        ({"detail": [{"msg": "no system role"}]}, "no system role"),
        ({"error": {"message": "a\n\x1b[31mb " + "c" * 500}}, r"a \[31mb c{180,}\.\.\."),
        ({"error": {"message": "bad key sk-secret-of-mine"}}, r"bad key \*\*\*"),
        ([[[]]], ""),
    ],
)
def test_the_servers_reason_is_told(chat_server, payload, said, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    chat_server.answer = lambda body, _: (422, payload)
    reason = f": {said}" if said else ""
    with pytest.raises(UserError, match=rf"\(status 422{reason}\)") as refused:
        complete(client(chat_server), HELLO[:1])
    assert "secret" not in str(refused.value)
    assert "run the same command" not in str(refused.value)  # it would say the same again


def test_missing_calls_are_counted_by_reason(chat_server):
    answers = {"one": (200, "Fine."), "two": (400, {"error": "too long"}), "three": (500, {})}
    chat_server.answer = lambda body, _: answers[said(body)]
    own = client(chat_server, attempts=2)
    assert complete(own) == [Completion("Fine.", True), None, None]
    assert own.missing == {"status 400: too long": 1, "status 500": 1}
    # The server is there: what it refuses for good ends nothing, an outage does.
    assert complete(own, HELLO[1:2]) == [None]
    with pytest.raises(UserError, match="run the same command to resume"):
        complete(own, HELLO[2:])


@pytest.fixture
def raw_server():
    """A server that sends bytes as they are; ``send(write)`` is what it does."""
    import socketserver
    import threading

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            # All of the request: what is left unread makes the close a reset, and the client may
            # then lose what was sent before.
            stream = self.request.makefile("rb")
            head = b"".join(iter(stream.readline, b"\r\n"))
            stream.read(int(re.search(rb"(?i)content-length: *(\d+)", head)[1]))
            with contextlib.suppress(OSError):
                owner.send(self.request.sendall)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    owner = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=owner.serve_forever, args=(0.01,), daemon=True).start()
    owner.client = lambda **more: ChatClient(
        f"http://127.0.0.1:{owner.server_address[1]}/v1#tiny",
        **{"attempts": 1, "timeout": 0.4, **more},
    )
    yield owner
    owner.shutdown()
    owner.server_close()


def dripping(beginning):
    def send(write):
        write(beginning)
        while True:
            write(b"x")
            time.sleep(0.05)

    return send


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("beginning", [b"", OK, OK + b"X-A: ", OK + b"\r\n {"])
def test_a_drip_ends(raw_server, beginning):
    raw_server.send = dripping(beginning)
    started = time.monotonic()
    with pytest.raises(UserError, match="none of 1 calls was answered"):
        complete(raw_server.client(), HELLO[:1])
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("length", [b"", b"Content-Length: 300000000\r\n"])
def test_an_endless_answer_is_cut(raw_server, length):
    sent = []

    def send(write):
        write(OK + length + b"\r\n")
        for _ in range(300):
            write(b"a" * 1_000_000)
            sent.append(1)

    raw_server.send = send
    with pytest.raises(UserError, match="an answer of more than 8 MB"):
        complete(raw_server.client(timeout=60), HELLO[:1])
    assert len(sent) < 60


@pytest.mark.parametrize("body", [b"[" * 200_000, b"\xff", b"1" * 10_000, b"", b'{"choices": {}}'])
def test_what_is_no_json_of_ours_is_missing(raw_server, body):
    raw_server.send = lambda write: write(OK + b"\r\n" + body)
    with pytest.raises(UserError, match="no chat completion"):
        complete(raw_server.client(timeout=60), HELLO[:1])


def test_an_answer_in_chunks_is_read(raw_server):
    body = json.dumps({"choices": [{"message": {"content": "Fine."}}]}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(x), x) for x in (body[:9], body[9:], b""))
    raw_server.send = lambda write: write(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert complete(raw_server.client(timeout=60), HELLO[:1]) == [Completion("Fine.", False)]


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7.0), ("9" * 400, 60.0), ("\xb2", 1.0), ("-1", 1.0), ("Wed", 1.0)]
)
def test_only_a_number_of_seconds_is_waited_for(raw_server, monkeypatch, asked, waited):
    waits = []
    monkeypatch.setattr("parlai_prosocial.engines.served.time.sleep", waits.append)
    head = f"HTTP/1.1 429 Slow\r\nRetry-After: {asked}\r\n\r\n".encode("latin-1")
    raw_server.send = lambda write: write(head)
    with pytest.raises(UserError, match="status 429"):
        complete(raw_server.client(attempts=2, timeout=60), HELLO[:1])
    assert waits == [waited]
