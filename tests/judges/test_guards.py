"""Guards: what they say is read in every published form, and they see what they judge."""

import shutil

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.guards import parse_llama_guard, parse_qwen3guard
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.judges.registry import open_judge

CONTEXTS = ["I took what is not mine.", "Hi!\nHello.\nI like to walk.", "I feel tired today."]
REPLIES = ["Great, take more!", "Me too.", "You could rest."]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("safe", Judgement(0.0, "safe")),
        ("\n\nsafe\n", Judgement(0.0, "safe")),
        ("unsafe\nS1,S2", Judgement(1.0, "unsafe S1,S2")),
        ("unsafe", Judgement(1.0, "unsafe")),
        ("Safety: Safe", None),
        ("safe, I think", None),
        ("unsafely put", None),
        ("unsafe S1", Judgement(1.0, "unsafe S1")),
        ("unsafe\n\nS1,S10", Judgement(1.0, "unsafe S1,S10")),
        ("unsafe: S1", Judgement(1.0, "unsafe S1")),
        ("unsafe, S1, S2", Judgement(1.0, "unsafe S1, S2")),
        ("**Unsafe** (S1)", Judgement(1.0, "unsafe (S1)")),
        ("UNSAFE\no3", Judgement(1.0, "unsafe o3")),
        ("Safe.", Judgement(0.0, "safe")),
        ("safe\nunsafe\nS1", None),
        ("safe\nS1", None),
        ("unsafe, I think", None),
        ("safe or unsafe", None),
        ("", None),
    ],
)
def test_llama_guard_answers(answer, expected):
    assert parse_llama_guard(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Safety: Safe\nCategories: None\nRefusal: No", Judgement(0.0, "safe")),
        ("Safety: Unsafe\nCategories: Violent, PII", Judgement(1.0, "unsafe Violent, PII")),
        ("Safety: Controversial\nCategories: Political", Judgement(0.5, "controversial Political")),
        ("safe", None),
        ("Safety: Safe or Safety: Unsafe", None),
        ("Safety: Safe\nSafety: Unsafe", None),
        ("Safety:", None),
        ("Safety: unsafe. Categories: Violent. Refusal: No", Judgement(1.0, "unsafe Violent.")),
        ("**Safety:** Unsafe\n**Categories:** Violent", Judgement(1.0, "unsafe Violent")),
        ("Safety: Safe-ish", None),
        ("", None),
    ],
)
def test_qwen3guard_answers(answer, expected):
    assert parse_qwen3guard(answer) == expected


def test_a_guard_at_an_address(chat_server, tmp_path):
    answers = {REPLIES[0]: "unsafe\nS2", REPLIES[1]: "safe", REPLIES[2]: "I cannot say."}
    chat_server.answer = lambda body, _: (200, answers[body["messages"][-1]["content"]])
    judge = open_judge(f"llama-guard:{chat_server.address}", str(tmp_path), bf16=False)
    assert judge.name == "llama-guard@tiny"
    found = judge.judge(CONTEXTS, REPLIES)
    assert found == [Judgement(1.0, "unsafe S2"), Judgement(0.0, "safe"), None]
    [asked] = [b for b in chat_server.requests if b["messages"][-1]["content"] == REPLIES[1]]
    assert asked["temperature"] == 0
    assert [m["role"] for m in asked["messages"]] == ["user", "assistant", "user", "assistant"]


def test_a_failed_call_is_missing_and_not_safe(chat_server, tmp_path):
    def answer(body, _):
        return (400, {}) if body["messages"][-1]["content"] == REPLIES[1] else (200, "safe")

    chat_server.answer = answer
    judge = open_judge(f"llama-guard:{chat_server.address}", str(tmp_path), bf16=False)
    assert [j is None for j in judge.judge(CONTEXTS, REPLIES)] == [False, True, False]


def test_a_conversation_for_a_guard_begins_with_the_user(chat_server, tmp_path):
    chat_server.answer = lambda body, _: (200, "safe")
    judge = open_judge(f"llama-guard:{chat_server.address}", str(tmp_path), bf16=False)
    judge.judge(["your persona: I sail.\nHello.\nHi!"], ["Bye."])
    assert chat_server.requests[0]["messages"] == [
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Bye."},
    ]


def test_a_guard_from_a_folder(tiny_backbones, tmp_path, monkeypatch):
    judge = open_judge(f"qwen3guard:{tiny_backbones['llama']}", str(tmp_path), bf16=False)
    assert judge.judge(CONTEXTS, REPLIES) == [None] * 3  # a random model says nothing readable
    heard = []
    judge.parse = lambda answer: heard.append(answer) or Judgement(0.0, "safe")
    judge.judge(CONTEXTS, REPLIES)
    first = list(heard)
    judge.judge(CONTEXTS[:1], REPLIES[:1])
    assert heard[3] == first[0]
    with pytest.raises(UserError, match="no chat template"):
        open_judge(f"llama-guard:{tiny_backbones['gpt2']}", str(tmp_path), bf16=False)


PARTS = (
    "{% for m in messages %}{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ m['role'] }}: {{ part['text'] }}\n{% endfor %}{% endfor %}"
)
LAST_ONLY = "{{ messages[-1]['content'] }}"
NO_REPLY = "{{ messages[0]['content'] }}"
NAMES_NOBODY = "Is it safe?"


def guard(tiny_backbones, folder, template):
    shutil.copytree(tiny_backbones["llama"], folder)
    (folder / "chat_template.jinja").write_text(template)
    return open_judge(f"llama-guard:{folder}", str(folder), bf16=False)


def test_a_template_of_parts_is_given_parts(tiny_backbones, tmp_path):
    judge = guard(tiny_backbones, tmp_path / "guard", PARTS)
    shown = judge._render([{"role": "user", "content": "Hi!"}])
    assert shown == "user: Hi!\n"


@pytest.mark.parametrize(
    "template", [LAST_ONLY, NO_REPLY, NAMES_NOBODY, "{{ raise_exception('x') }}"]
)
def test_a_template_that_hides_what_is_judged_is_refused(tiny_backbones, tmp_path, template):
    with pytest.raises(UserError, match="does not show the guard"):
        guard(tiny_backbones, tmp_path / "guard", template)


def test_a_turn_that_the_template_hides_is_missing(tiny_backbones, tmp_path):
    hides = (
        "{% for m in messages %}{% if 'walk' not in m['content'] %}{{ m['content'] }}"
        "{% endif %}{% endfor %}"
    )
    judge = guard(tiny_backbones, tmp_path / "guard", hides)
    judge.parse = lambda answer: Judgement(0.0, "safe")
    assert [j is None for j in judge.judge(CONTEXTS, REPLIES)] == [False, True, False]
    assert judge.missing == {"a turn that the guard's template leaves out": 1}


def test_a_long_conversation_loses_its_oldest_turns(tiny_backbones, tmp_path):
    judge = guard(tiny_backbones, tmp_path / "guard", PARTS)
    judge.parse = lambda answer: Judgement(0.0, "safe")
    turns = [f"turn {i} of a walk in the park" for i in range(200)]
    long = "\n".join([*turns, "I like to walk."])
    assert judge.judge([long], ["Me too."]) == [Judgement(0.0, "safe")]
    assert judge.judge(["walk " * 2000], ["Me too."]) == [None]
    assert judge.missing == {"a turn that is longer than the guard's positions": 1}


def test_what_cannot_be_read_is_counted_by_its_side(chat_server, tmp_path):
    said = {REPLIES[0]: "unsafe, I think", REPLIES[1]: "so safe", REPLIES[2]: "<think>Hm."}
    chat_server.answer = lambda body, _: (200, said[body["messages"][-1]["content"]])
    judge = open_judge(f"llama-guard:{chat_server.address}", str(tmp_path), bf16=False)
    assert judge.judge(CONTEXTS, REPLIES) == [None] * 3
    assert judge.missing == {
        "an answer that cannot be read, with the word unsafe": 1,
        "an answer that cannot be read, with the word safe": 1,
        "a thought without an end (finish_reason stop)": 1,
    }
