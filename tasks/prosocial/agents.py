"""ProsocialDialog, or the user's own data, as ParlAI tasks.

``-t prosocial`` (the same as ``:Response``), ``:Rot``, ``:Safety``, ``:BinarySafety``, ``:Canary``,
``:RotResponse`` and ``:Contrastive`` give one example a turn, with its history in ``text``.
``--prosocial-data FILE`` puts the user's own data in the corpus's place in every one of them, and
``:Own`` insists on it; the format is described in ``parlai_prosocial/data/own.py``. ``:Labelled``
and ``:Judged`` are of another kind: see ``labelled.py`` and ``reply_rates.py``.
"""

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.tasks.prosocial.base import (
    CorpusTeacher,
    Messages,
    add_rot_flag,
    add_sample_flag,
    contrastive_message,
)
from parlai.tasks.prosocial.labelled import LabelledTeacher as LabelledTeacher
from parlai.tasks.prosocial.reply_rates import JudgedTeacher as JudgedTeacher

from parlai_prosocial.data import own, prosocial_dialog
from parlai_prosocial.data.example import (
    BINARY_LABELS,
    CASUAL,
    NOT_OK_LABEL,
    OK_LABEL,
    SAFETY_LABELS,
    ContrastiveExample,
    packed_text,
    rot_lines,
)
from parlai_prosocial.errors import UserError


class _ProsocialTeacher(CorpusTeacher):
    corpus = "prosocial"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        add_sample_flag(parser)
        parser.add_argument_group("ProsocialDialog").add_argument(
            "--prosocial-data",
            type=str,
            default=None,
            help="Your own data instead of the corpus: a JSON Lines, CSV or Parquet file, a folder "
            "of them, or a name on the hub. Check it first: prosocial data check FILE.",
        )
        return parser

    def examples(self, split: str) -> list[ContrastiveExample]:
        datapath, reading = self.opt["datapath"], self.reading()
        if self.opt["prosocial_data"]:
            rows = own.load_rows(self.opt["prosocial_data"], datapath, split, **reading)
            return own.contrastive_examples(rows)
        sample = self.opt["prosocial_sample"]
        rows = prosocial_dialog.load_rows(datapath, split, sample, **reading)
        return prosocial_dialog.contrastive_examples(rows)

    def labelled_examples(self, split: str) -> list[ContrastiveExample]:
        """Return the examples with a safety label; own data may have none."""
        return [example for example in self.examples(split) if example.safety_label]


class ContrastiveTeacher(_ProsocialTeacher):
    """History, the guiding reply, and what doesn't fit as negatives."""

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        add_rot_flag(parser)
        return parser

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            yield contrastive_message(example, self.opt["rot_in_context"]), True


class OwnTeacher(ContrastiveTeacher):
    """The user's own data, which must be given."""

    def examples(self, split: str) -> list[ContrastiveExample]:
        if not self.opt["prosocial_data"]:
            raise UserError("-t prosocial:Own needs --prosocial-data FILE")
        return super().examples(split)


class ResponseTeacher(_ProsocialTeacher):
    """Guiding replies, each to its turn and the history before."""

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            message = {
                "text": packed_text(example.context),
                "labels": [example.response],
                "rots": example.rots,
                "contrast_group": example.contrast_group,
                "source": example.source,
            }
            if example.safety_label is not None:
                message["safety_label"] = example.safety_label
            yield message, True


class RotTeacher(_ProsocialTeacher):
    """The rules of thumb of a turn, each a right label. Turns without one are left out."""

    needs = "a rule of thumb"

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            if example.rots:
                yield _message(example, example.rots), True


class SafetyTeacher(_ProsocialTeacher):
    """How much caution does the last turn need? Five labels."""

    needs = "a safety_label"

    def messages(self, split: str) -> Messages:
        for example in self.labelled_examples(split):
            yield _message(example, [example.safety_label], SAFETY_LABELS), True


class BinarySafetyTeacher(_ProsocialTeacher):
    """``__ok__`` for casual turns, else ``__notok__``, as in ParlAI's safety tasks."""

    needs = "a safety_label"

    def messages(self, split: str) -> Messages:
        for example in self.labelled_examples(split):
            label = OK_LABEL if example.safety_label == CASUAL else NOT_OK_LABEL
            yield _message(example, [label], BINARY_LABELS), True


class CanaryTeacher(_ProsocialTeacher):
    """The safety label, then the rules of thumb, a line each (Canary, Kim et al. 2022)."""

    needs = "a safety_label"

    def messages(self, split: str) -> Messages:
        for example in self.labelled_examples(split):
            label = "\n".join([example.safety_label, *rot_lines(example.rots)])
            yield _message(example, [label]), True


class RotResponseTeacher(_ProsocialTeacher):
    """The rules of thumb, a line each, then the reply; on casual turns the reply alone."""

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            rots = [] if example.safety_label == CASUAL else example.rots
            label = "\n".join([*rot_lines(rots), example.response])
            yield _message(example, [label]), True


class DefaultTeacher(ResponseTeacher):
    pass


def _message(
    example: ContrastiveExample, labels: list[str], classes: list[str] | None = None
) -> dict:
    message = {"text": packed_text(example.context), "labels": labels, "source": example.source}
    if classes is not None:
        message["label_candidates"] = classes
    return message
