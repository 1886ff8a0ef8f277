"""A conversation as the page keeps it, and as files: ParlAI's conversations, and own data.

The page sends JSON::

    {"models": ["runs/step2/model"], "classifier": "runs/judge/model" or null,
     "turns": [TURN, ...], "replaced": [TURN, ...]}

    TURN     {"context": [TEXT, ...], "message": TEXT, "safety": SAFETY or null,
              "replies": [REPLY of each model], "chosen": index of a reply}
    REPLY    {"versions": [VERSION, ...], "shown": index of a version}
    VERSION  {"text": TEXT, "rots": [TEXT, ...], "safety": SAFETY or null, "edited": bool,
              "flag": {"reason": TEXT, "note": TEXT, "better": TEXT} or null}

A reply that failed has no version, and -1 as ``shown``. ``replaced`` holds turns whose message was
written again. ``chosen`` and ``shown`` say which reply the conversation continued with.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from parlai_prosocial.chat.lines import as_line
from parlai_prosocial.data.example import SAFETY_LABELS
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError

PERSON = "human"


class _Part(BaseModel):
    """A part of a transcript: nothing is read as another type than it has."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Safety(_Part):
    label: str
    probability: float


class _Flag(_Part):
    reason: str
    note: str
    better: str


class _Version(_Part):
    text: str
    rots: list[str]
    safety: _Safety | None
    edited: bool
    flag: _Flag | None


class _Reply(_Part):
    versions: list[_Version]
    shown: int

    @model_validator(mode="after")
    def _shown_is_there(self) -> "_Reply":
        if self.shown not in (range(len(self.versions)) if self.versions else (-1,)):
            raise ValueError(f"shown is {self.shown}, of {len(self.versions)} versions")
        return self


class _Turn(_Part):
    context: list[str]
    message: str
    safety: _Safety | None
    replies: list[_Reply]
    chosen: int


class _Transcript(_Part):
    models: list[str] = Field(min_length=1)
    classifier: str | None
    turns: list[_Turn]
    replaced: list[_Turn]

    @model_validator(mode="after")
    def _a_reply_of_each_model(self) -> "_Transcript":
        for turn in [*self.turns, *self.replaced]:
            if len(turn.replies) != len(self.models):
                raise ValueError(f"{len(turn.replies)} replies of {len(self.models)} models")
            if turn.chosen not in range(len(self.models)):
                raise ValueError(f"chosen is {turn.chosen}, of {len(self.models)} replies")
        return self


def check_transcript(content: Any) -> dict[str, Any]:
    """Return the transcript; raises :class:`UserError` that names the part which is none."""
    try:
        _Transcript.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(f"transcript: not in the page's form at {where}: {first['msg']}") from None
    return content


def conversations_line(transcript: dict[str, Any]) -> str:
    """The conversation as one line of ParlAI's conversations format (JSON Lines).

    Each pair of turns is the person's message and the reply that the conversation went on with,
    under its model's name, with ``rots``, ``safety``, ``edited`` and ``flag``. Replies that it did
    not continue with are its ``alternatives``.
    """
    content = {
        "dialog": [_act_pair(turn, transcript["models"]) for turn in transcript["turns"]],
        "context": [],
        "models": transcript["models"],
        "classifier": transcript["classifier"],
        "replaced": [_act_pair(turn, transcript["models"]) for turn in transcript["replaced"]],
    }
    # In ASCII, since ParlAI takes more than a line feed for the end of a line.
    return json.dumps(content) + "\n"


def _act_pair(turn: dict[str, Any], models: list[str]) -> list[dict[str, Any]]:
    said, others = None, []
    for index, (model, reply) in enumerate(zip(models, turn["replies"], strict=True)):
        for number, version in enumerate(reply["versions"]):
            act = {"id": model, **version}
            if index == turn["chosen"] and number == reply["shown"]:
                said = act
            else:
                others.append(act)
    message = {"id": PERSON, "text": turn["message"], "safety": turn["safety"]}
    return [message, said | {"alternatives": others}] if said else [message]


def own_rows(transcript: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """What the person judged, in the form of own data (``data/own.py``).

    A row for each turn with a flagged or an edited reply. Its negatives are the flagged replies.
    Its response is what the person says would have fitted; else a reply that the person edited;
    else the reply that the conversation went on with. A reply that nobody judged is no row.

    Returns:
        The rows, and how many flagged replies are in none because their turn has no fitting reply.
    """
    rows, left_out = [], 0
    for turn in [*transcript["turns"], *transcript["replaced"]]:
        versions = [
            version | {"model": model}
            for model, reply in zip(transcript["models"], turn["replies"], strict=True)
            for version in reply["versions"]
        ]
        flagged = [version for version in versions if version["flag"]]
        edited = [version for version in versions if version["edited"] and not version["flag"]]
        if not flagged and not edited:
            continue
        response = _fitting_reply(turn, flagged, edited)
        if not response:
            left_out += len(flagged)
            continue
        rows.append(_row(turn, response, flagged))
    return rows, left_out


def _fitting_reply(turn: dict, flagged: list[dict], edited: list[dict]) -> str:
    better = [version["flag"]["better"].strip() for version in flagged]
    for text in [*reversed(better), *(version["text"].strip() for version in reversed(edited))]:
        if text:
            return text
    reply = turn["replies"][turn["chosen"]]
    said = reply["versions"][reply["shown"]] if reply["versions"] else None
    return "" if said is None or said["flag"] else said["text"].strip()


def _row(turn: dict, response: str, flagged: list[dict]) -> dict[str, Any]:
    # A text once only, and never the response itself.
    by_form = {normalise_text(v["text"]): v for v in flagged if v["text"].strip()}
    by_form.pop(normalise_text(response), None)
    negatives = list(by_form.values())
    row: dict[str, Any] = {
        "context": [as_line(text) for text in [*turn["context"], turn["message"]]],
        "response": response,
        "negatives": [version["text"] for version in negatives],
        "negative_judges": [PERSON] * len(negatives),
        "negative_sources": [version["model"] for version in negatives],
        "negative_reasons": [
            ": ".join(filter(None, [v["flag"]["reason"], v["flag"]["note"].strip()]))
            for v in negatives
        ],
        "source": "chat",
        "split": "train",
    }
    if turn["safety"] and turn["safety"]["label"] in SAFETY_LABELS:
        row["safety_label"] = turn["safety"]["label"]
    return row


def own_lines(rows: list[dict[str, Any]]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
