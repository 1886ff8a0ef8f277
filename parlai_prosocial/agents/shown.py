"""``--show-rot`` and ``--show-safety``: what a person who talks to the model sees besides its text.

Terminals (``parlai interactive``, ``safe_interactive``, ``self_chat``) print fields of a message,
and leave them out of what is said: the log of ``--outfile`` and the other model of a self-chat get
the reply alone. ``parlai interactive_web`` and the chat services show the text only, so there the
lines are put below the reply.
"""

from typing import Any

from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser

from parlai_prosocial.data.example import split_rots
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.models.classifier_input import split_last_line
from parlai_prosocial.zoo.resolve import open_classifier

SHOWN_FIELDS = {
    "written_rots": "rule of thumb",
    "message_safety": "safety of your message",
    "reply_safety": "safety of the reply",
}
"""Fields of a reply, and what people are told that they are."""


def add_arguments(parser: ParlaiParser) -> None:
    group = parser.add_argument_group("Shown to people in interactive mode")
    group.add_argument(
        "--show-rot",
        type="bool",
        default=False,
        help="Show the rules of thumb that the model wrote before its reply; one trained on "
        "-t prosocial:RotResponse does.",
    )
    group.add_argument(
        "--show-safety",
        type="bool",
        default=False,
        help="Show the label that --safety-model gives your message and the reply.",
    )
    group.add_argument(
        "--safety-model",
        type=str,
        default=None,
        help="File of a -m prosocial/classifier. `parlai safe_interactive` filters by it too.",
    )
    # Printed where a message has them.
    parser.set_defaults(display_add_fields=",".join(SHOWN_FIELDS))


class ShownTurns:
    """Tells people of a reply's rules of thumb and of the turn's safety, where they ask for it.

    In interactive mode only. The history has the reply alone. An agent has one, and its clones
    share it.

    Args:
        opt: has the flags of :func:`add_arguments`.

    Raises:
        UserError: ``--show-safety`` without a classifier, or one that cannot be opened.
    """

    def __init__(self, opt: Opt):
        self.safety: SafetyClassifier | None = None
        if opt.get("show_safety"):
            if not opt.get("safety_model"):
                raise UserError(
                    "--show-safety: needs a classifier; give its file by --safety-model (train "
                    "one with -m prosocial/classifier)"
                )
            self.safety = open_classifier(
                opt["safety_model"], "--safety-model", opt.get("datapath")
            )

    def for_history(self, opt: Opt, reply: Message) -> Message:
        """What the agent remembers of its own message: the reply without rules of thumb."""
        if opt.get("interactive_mode") and reply.get("text"):
            reply = Message(reply)
            reply.force_set("text", split_rots(reply["text"])[1])
        return reply

    def for_people(self, opt: Opt, message: Message, context: str) -> Message:
        """What people get of an agent's message in a newline-packed context."""
        if not opt.get("interactive_mode") or "text" not in message:
            return message
        rots, text = split_rots(message["text"])
        shown: dict[str, Any] = {}
        if opt.get("show_rot"):
            shown["written_rots"] = rots
        if self.safety is not None:
            shown["message_safety"] = self._judge(*split_last_line(context))
            shown["reply_safety"] = self._judge(context, text)
        if not _prints_fields(opt):
            notes = {SHOWN_FIELDS[name]: value for name, value in shown.items()}
            text = "\n".join([text, *(f"[{name}: {_line(v)}]" for name, v in notes.items())])
        message.force_set("text", text)
        message.update(shown)
        return message

    def _judge(self, context: str, line: str) -> str:
        assert self.safety is not None
        label, probability = self.safety.label_of(context, line)
        return f"{label} {probability:.2f}"


def _prints_fields(opt: Opt) -> bool:
    """Whether the script prints fields: it has a world of its own, and no page."""
    return ("interactive_task" in opt or "selfchat_task" in opt) and "host" not in opt


def _line(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "; ".join(value) or "none was written"
