"""Calls to an address: retried, bounded, missing where they fail, and silent about the key."""

import time

import pytest

from parlai_prosocial.engines.served import ChatClient, Completion
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
