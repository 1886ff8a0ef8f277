"""Preference data, transcripts and messages are read as rows of ours."""

import json

import pytest

from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.own import SCHEMA
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.data.shapes import as_own, shape_of

HUMAN, REPLY = "\n\nHuman: ", "\n\nAssistant: "


def message(role, content):
    return {"role": role, "content": content}


USER = message("user", "I lied to\nhim.")
GOOD, BAD = message("assistant", "Tell him."), message("assistant", "Nice.")
EARLIER = [message("user", "Hi!"), message("assistant", "Hello.")]
SHARED = {"response": "Tell him.", "negatives": ["Nice."]}

PAIRS = [
    ("preference", {"prompt": "I lied to\nhim.", "chosen": "Tell him.", "rejected": "Nice."}, 1),
    ("preference", {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, 1),
    ("preference", {"prompt": [*EARLIER, USER], "chosen": [GOOD], "rejected": [BAD]}, 3),
    ("preference", {"chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, BAD]}, 3),
    # The prompt beside whole conversations, as UltraFeedback's binarised data have it.
    ("preference", {"prompt": "I lied", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, 1),
    ("preference", {"prompt": [USER], "chosen": "Tell him.", "rejected": "Nice."}, 1),
    (
        "preference",
        {
            "prompt": f"{HUMAN}I lied to him.\n\nAssistant:",
            "chosen": "Tell him.",
            "rejected": "Nice.",
        },
        1,
    ),
    (
        "HH-RLHF",
        {
            "chosen": f"{HUMAN}Hi!{REPLY}Hello.{HUMAN}I lied to him.{REPLY}Tell him.",
            "rejected": f"{HUMAN}Hi!{REPLY}Hello.{HUMAN}I lied to him.{REPLY}Nice.",
        },
        3,
    ),
    # Where the two go on differently, the first reply that differs counts.
    (
        "HH-RLHF",
        {
            "chosen": f"{HUMAN}I lied to him.{REPLY}Tell him.{HUMAN}I will.{REPLY}Good.",
            "rejected": f"{HUMAN}I lied to him.{REPLY}Nice.",
        },
        1,
    ),
]


@pytest.mark.parametrize(("shape", "raw", "turns"), PAIRS)
def test_pairs(shape, raw, turns):
    assert shape_of(raw) == shape
    [row] = as_own(raw)
    context = ["Hi!", "Hello.", "I lied to him."][-turns:]
    assert {name: row[name] for name in ("context", *SHARED)} == {"context": context, **SHARED}
    assert SCHEMA.read_row(row)["negatives"] == ["Nice."]


def test_lists_in_csv_are_json(tmp_path):
    path = tmp_path / "x.jsonl"
    _, raw, _ = PAIRS[2]
    path.write_text(json.dumps({name: json.dumps(value) for name, value in raw.items()}))
    [(_, row)] = checked_rows(path, SCHEMA)
    assert row["context"] == ["Hi!", "Hello.", "I lied to him."]


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        ("messages", {"messages": [*EARLIER, USER, GOOD, message("user", "Thanks.")]}),
        (
            "ShareGPT",
            {
                "conversations": [
                    {"from": "system", "value": "You are a bot."},
                    {"from": "gpt", "value": "Welcome."},
                    {"from": "human", "value": "Hi!"},
                    {"from": "gpt", "value": "Hello."},
                    {"from": "human", "value": "I lied to"},
                    {"from": "human", "value": "him."},
                    {"from": "gpt", "value": "Tell him."},
                ]
            },
        ),
    ],
)
def test_conversations_give_a_row_a_reply(shape, raw):
    assert shape_of(raw) == shape
    rows = as_own(raw)
    assert [row["response"] for row in rows] == ["Hello.", "Tell him."]
    assert rows[1]["context"][-3:] == ["Hi!", "Hello.", "I lied to him."]


def test_earlier_replies_of_weight_0_give_no_row():
    earlier = [EARLIER[0], {**EARLIER[1], "weight": 0}]
    [row] = as_own({"messages": [*earlier, USER, {**GOOD, "weight": None}]})
    assert (row["context"], row["response"]) == (["Hi!", "Hello.", "I lied to him."], "Tell him.")


def test_completions_and_parts():
    assert as_own({"prompt": "Hi!", "completion": "Hello."})[0]["response"] == "Hello."
    parts = [{"type": "text", "text": "I lied to"}, {"type": "text", "text": "him."}]
    [row] = as_own({"messages": [message("user", parts), GOOD]})
    assert row["context"] == ["I lied to him."]


def test_our_lines_of_a_system_message_are_taken_up():
    system = message("system", "You are kind.\nyour persona: I sail.\nrule of thumb: Be honest.")
    [row] = as_own({"messages": [system, USER, GOOD], "split": "test", "extra": 1})
    assert row["rots"] == ["Be honest."]
    assert row["context"] == ["your persona: I sail.", "I lied to him."]
    assert row["split"] == "test"


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        ({"chosen": "a", "rejected": "a", "prompt": "b"}, "rejected", "the same as chosen"),
        ({"chosen": "a", "rejected": "b"}, "chosen", "no assistant's reply"),
        ({"chosen": [USER, GOOD], "rejected": [EARLIER[0], BAD]}, "rejected", "another conv"),
        ({"chosen": 3, "rejected": "b", "prompt": "c"}, "chosen", "neither a text nor a list"),
        ({"chosen": [], "rejected": "b", "prompt": "c"}, "chosen", "neither a text nor a list"),
        ({"messages": [message("tool", "x"), GOOD]}, "messages", "a turn of 'tool'"),
        ({"messages": [USER]}, "messages", "no assistant's turn after a user's"),
        ({"messages": [GOOD]}, "messages", "no assistant's turn after a user's"),
        ({"messages": ["Hi!"]}, "messages", "no message with role and content"),
        ({"messages": [message("user", None), GOOD]}, "messages", "without a text"),
        ({"messages": [message("user", [{"type": "image"}]), GOOD]}, "messages", "without a text"),
        ({"messages": "[{'role': 'user'}]"}, "messages", "no JSON list of messages"),
        ({"conversations": [{"from": None, "value": "x"}]}, "conversations", "a turn of 'None'"),
    ],
)
def test_what_cannot_be_read_is_named(raw, field, reason):
    with pytest.raises(BadRow, match=reason) as error:
        as_own(raw)
    assert error.value.field == field


def test_a_bad_row_among_good_ones_keeps_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [
        PAIRS[0][1],
        {"chosen": "a", "rejected": "a", "prompt": "b"},
        {"messages": [USER, GOOD]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [(place.rpartition(" ")[2], type(row)) for place, row in checked_rows(path, SCHEMA)]
    assert places == [("1", dict), ("2", BadRow), ("3", dict)]
