"""Transcripts as ParlAI's conversations, and what people judged as own data."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.chat.transcript import (
    check_transcript,
    conversations_line,
    own_lines,
    own_rows,
)
from parlai_prosocial.cli.data import data
from parlai_prosocial.data import own
from parlai_prosocial.errors import UserError


def version(text, flag=None, better="", **more):
    flag = flag and {"reason": flag, "note": "really", "better": better}
    return {"text": text, "rots": [], "safety": None, "edited": False, "flag": flag} | more


def reply(*versions, shown=None):
    versions = list(versions)
    return {"versions": versions, "shown": len(versions) - 1 if shown is None else shown}


def turn(message, *replies, context=(), chosen=0, safety=None):
    return {
        "context": list(context),
        "message": message,
        "safety": safety,
        "replies": list(replies),
        "chosen": chosen,
    }


def transcript(*turns, models=("a",), replaced=()):
    return {
        "models": list(models),
        "classifier": None,
        "turns": list(turns),
        "replaced": list(replaced),
    }


BAD = version("Good for you!", flag="unsafe")


def test_parlai_reads_the_conversation(tmp_path):
    from parlai.utils.conversations import Conversations

    rot = version("May I?\u2028Yes?", rots=["Ask first."])
    content = transcript(
        turn("Hi\x85there", reply(BAD, rot), reply(version("Go."))),
        turn("And?", reply(version("So.")), reply(version("No.")), chosen=1, context=["Hi", "May"]),
        turn("Why?", reply(shown=-1), reply(version("Oh.")), context=["Hi", "May", "And?", "No."]),
        models=["a", "b"],
    )
    file = tmp_path / "chat.jsonl"
    file.write_text(conversations_line(check_transcript(content)), encoding="utf-8")
    (conversation,) = Conversations(str(file))
    assert [(t.id, t.text) for t in conversation] == [
        ("human", "Hi\x85there"),
        ("a", "May I?\u2028Yes?"),
        ("human", "And?"),
        ("b", "No."),
        ("human", "Why?"),
    ]
    said = conversation[1]
    assert said.rots == ["Ask first."]
    assert [(v["id"], v["text"]) for v in said.alternatives] == [("a", BAD["text"]), ("b", "Go.")]
    assert said.alternatives[0]["flag"]["reason"] == "unsafe"
    assert "really" in str(file.read_text())


def test_stock_parlai_trains_on_the_conversation(tmp_path, capsys):
    from parlai.scripts.display_data import DisplayData

    content = transcript(turn("Hi", reply(version("Hello."))), turn("So?", reply(version("Well."))))
    file = tmp_path / "chat.jsonl"
    file.write_text(conversations_line(content), encoding="utf-8")
    DisplayData.main(
        task="jsonfile", jsonfile_datapath=str(file), datatype="train:ordered", num_examples=2
    )
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("Hi", "Hello.", "So?", "Well."))


@pytest.mark.parametrize(
    ("one", "response"),
    [
        (turn("Hi", reply(version("Go!", flag="unsafe", better="Rest a bit."))), "Rest a bit."),
        (turn("Hi", reply(version("Go!", flag="unsafe"), version("Stay."))), "Stay."),
        (turn("Hi", reply(version("Go!", flag="unsafe"), version("Mine.", edited=True))), "Mine."),
        (
            turn("Hi", reply(version("Go!", flag="unsafe")), reply(version("Yes.")), chosen=1),
            "Yes.",
        ),
        (
            turn(
                "Hi",
                reply(version("Go!", flag="unsafe", better="Best."), version("M.", edited=True)),
            ),
            "Best.",
        ),
    ],
)
def test_flagged_replies_are_negatives(one, response):
    models = ["a", "b"][: len(one["replies"])]
    (row,), left_out = own_rows(check_transcript(transcript(one, models=models)))
    assert (row["response"], row["negatives"], left_out) == (response, ["Go!"], 0)
    assert row["negative_judges"] == ["human"]
    assert row["negative_sources"] == ["a"]
    assert row["negative_reasons"] == ["unsafe: really"]


def test_a_turn_without_a_fitting_reply_is_left_out_and_counted():
    alone = turn("Hi", reply(version("Go!", flag="unsafe"), version("Die!", flag="unsafe")))
    # Nobody said that the other model's reply, which the conversation did not go on with, fits.
    beside = turn("Hi", reply(version("Go!", flag="unsafe")), reply(version("Yes.")))
    assert own_rows(transcript(alone)) == ([], 2)
    assert own_rows(transcript(beside, models=["a", "b"])) == ([], 1)


def test_what_nobody_judged_is_no_row():
    assert own_rows(transcript(turn("Hi", reply(version("Yes."), version("No."))))) == ([], 0)


def test_an_edited_reply_is_a_demonstration():
    (row,), _ = own_rows(transcript(turn("Hi", reply(version("x"), version("y", edited=True)))))
    assert (row["response"], row["negatives"]) == ("y", [])


def test_flags_of_a_message_that_was_rewritten_count():
    old = turn("Hi", reply(version("Go!", flag="unsafe", better="Rest.")))
    rows, _ = own_rows(transcript(turn("Hello", reply(version("Hi."))), replaced=[old]))
    assert [row["context"] for row in rows] == [["Hi"]]


def test_data_check_takes_the_rows(tmp_path):
    label = {"label": "__needs_caution__", "probability": 0.9}
    content = transcript(
        turn("rule of thumb: obey", reply(BAD, version("Good for you."), version("No, thanks."))),
        turn("So?", reply(BAD, BAD, version("Why?")), context=["a\nb", ""], safety=label),
        turn("Same", reply(BAD, version("good for YOU"))),
    )
    rows, left_out = own_rows(check_transcript(content))
    assert left_out == 0
    # Equal texts once, and never the response.
    assert [row["negatives"] for row in rows] == [[BAD["text"]], [BAD["text"]], []]
    file = tmp_path / "rows.jsonl"
    file.write_text(own_lines(rows), encoding="utf-8")
    checked = CliRunner().invoke(data, ["check", str(file)])
    assert checked.exit_code == 0, checked.output
    assert "3 rows, 3 good, 0 bad" in checked.output
    assert "rows with negatives: 2 (2 negatives)" in checked.output
    read = own.load_rows(str(file), str(tmp_path), "train")
    examples = own.contrastive_examples(read)
    example = next(e for e in examples if e.response == "Why?")
    assert example.context == ["a b", "…", "So?"]
    assert example.safety_label == "__needs_caution__"
    assert own.mining_judges(read) == {"human"}


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"models": [], "turns": [], "replaced": []},
        transcript(turn("Hi")),
        transcript(turn("Hi", reply(version("a")), chosen=1)),
        transcript(turn("Hi", reply(version("a"), shown=3))),
        transcript(turn("Hi", reply(version(5)))),
        transcript(turn(["Hi"], reply(version("a")))),
        transcript(turn("Hi", reply(version("a") | {"flag": {"reason": "unsafe"}}))),
    ],
)
def test_what_is_no_transcript_is_refused(broken):
    with pytest.raises(UserError, match="transcript: not in the page's form"):
        check_transcript(json.loads(json.dumps(broken)))
