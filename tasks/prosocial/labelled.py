"""``-t prosocial:Labelled``: replies that a judge learns from, with their labels."""

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.tasks.prosocial.base import CorpusTeacher, Messages

from parlai_prosocial.data import labelled
from parlai_prosocial.data.example import BINARY_LABELS, NOT_OK_LABEL, OK_LABEL, packed_text
from parlai_prosocial.errors import UserError


class LabelledTeacher(CorpusTeacher):
    """Is the last line fitting after the ones before? ``__ok__`` or ``__notok__``.

    ``-dt valid`` has the rows of 8 % of the contexts; ``-dt test`` those of the half that
    ``--labels-half`` leaves out, or of valid again without it.
    """

    corpus = "labelled"
    needs = "a label on --labels-axis"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("Labelled replies")
        group.add_argument(
            "--labels",
            type=str,
            default=None,
            help="Files or folders with context, reply, axis and label_1, as `prosocial labels` "
            "writes them; several with commas between.",
        )
        group.add_argument(
            "--labels-axis",
            choices=(*labelled.AXES, labelled.UNRESPONSIVE),
            default=labelled.UNSAFE,
            help="Which fault makes __notok__; unresponsive: the reply does not answer the turn "
            "(answers_1).",
        )
        group.add_argument(
            "--labels-half",
            type=int,
            default=None,
            choices=range(labelled.HALVES),
            help="Train on one half of the contexts, so that a judge of the other half has not "
            "seen them (--judge two-fold). Default: all.",
        )
        return parser

    def messages(self, split: str) -> Messages:
        if not self.opt["labels"]:
            raise UserError("-t prosocial:Labelled needs --labels FILE")
        rows = labelled.load_rows(
            [name.strip() for name in self.opt["labels"].split(",")],
            self.opt["labels_axis"],
            split,
            self.opt["labels_half"],
            self.reading()["max_file_size"],
        )
        for row in rows:
            message = {
                "text": packed_text([*row["context"], row["reply"]]),
                "labels": [NOT_OK_LABEL if row["label_1"] else OK_LABEL],
                "label_candidates": BINARY_LABELS,
                "source": "labelled",
            }
            yield message, True
