"""The Moral Integrity Corpus as ParlAI tasks.

``-t mic`` answers a question by a rule of thumb; ``:Rot`` names a rule that judges an answer;
``:Alignment``, ``:Severity``, ``:Consensus`` and ``:Foundations`` are the corpus's attributes, with
the inputs of its authors (Ziems et al., ACL 2022): the rule alone, for the alignment question and
answer too. ``:Contrastive`` has the chatbot's misaligned answers as negatives.
"""

from collections.abc import Sequence

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.tasks.prosocial.base import (
    CorpusTeacher,
    Messages,
    add_rot_flag,
    add_sample_flag,
    contrastive_message,
)
from parlai.utils import logging

from parlai_prosocial.data import mic
from parlai_prosocial.data.example import ContrastiveExample, rot_lines


class _MicTeacher(CorpusTeacher):
    corpus = "mic"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        add_sample_flag(parser)
        parser.add_argument_group("MIC").add_argument(
            "--mic-data",
            type=str,
            default=None,
            help="MIC.csv, a folder, or SALT-NLP/MIC once you accepted its data-use agreement on "
            "the hub. Default: <datapath>/mic/MIC.csv.",
        )
        return parser

    def rows(self, split: str) -> list[dict]:
        return mic.load_rows(
            self.opt["datapath"],
            split,
            source=self.opt["mic_data"],
            sample=self.opt["prosocial_sample"],
            skip_bad_rows=self.opt["skip_bad_rows"],
        )

    def examples(self, split: str) -> list[ContrastiveExample]:
        rows = self.rows(split)
        examples = mic.contrastive_examples(rows)
        logging.info(f"MIC, {split}: {len(rows) - len(examples)} rows left out, no fitting answer")
        return examples


class ContrastiveTeacher(_MicTeacher):
    """Question, the fitting answer, and the chatbot's answer as negative where it disagrees."""

    needs = "a worker_answer, or an answer in line with the rule"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        add_rot_flag(parser)
        return parser

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            yield contrastive_message(example, self.opt["rot_in_context"]), True


class AnswerTeacher(_MicTeacher):
    """Rule of thumb and question, answered in line with the rule."""

    needs = "a worker_answer, or an answer in line with the rule"

    def messages(self, split: str) -> Messages:
        for example in self.examples(split):
            message = {
                "text": "\n".join([*rot_lines(example.rots), *example.context]),
                "labels": [example.response],
                "rots": example.rots,
                "contrast_group": example.contrast_group,
                "source": example.source,
            }
            yield message, True


class RotTeacher(_MicTeacher):
    """Question and answer, and a rule of thumb that judges the answer."""

    def messages(self, split: str) -> Messages:
        for row in self.rows(split):
            message = {
                "text": f"{row['Q']}\n{row['A']}",
                "labels": [row["rot"]],
                "source": "mic",
            }
            yield message, True


class AlignmentTeacher(_MicTeacher):
    """Does the answer agree with the rule of thumb?"""

    def messages(self, split: str) -> Messages:
        for row in self.rows(split):
            text = "\n".join([*rot_lines([row["rot"]]), row["Q"], row["A"]])
            yield _class_message(text, [mic.ALIGNMENTS[row["A_agrees"]]], mic.ALIGNMENTS), True


class SeverityTeacher(_MicTeacher):
    """How bad is it to break the rule? Rows without a severity are left out."""

    needs = "a violation-severity"

    def messages(self, split: str) -> Messages:
        rows = self.rows(split)
        yield from _scale_messages(rows, "violation-severity", mic.SEVERITIES)


class ConsensusTeacher(_MicTeacher):
    """How many people would agree with the rule? Rows without a consensus are left out."""

    needs = "a rot-agree"

    def messages(self, split: str) -> Messages:
        yield from _scale_messages(self.rows(split), "rot-agree", mic.CONSENSUS)


class FoundationsTeacher(_MicTeacher):
    """Which moral foundations does the rule rest on? Every one of them is a right label."""

    needs = "a moral foundation"

    def messages(self, split: str) -> Messages:
        for row in self.rows(split):
            if row["moral"]:
                text = "\n".join(rot_lines([row["rot"]]))
                yield _class_message(text, row["moral"], mic.FOUNDATIONS), True


class DefaultTeacher(AnswerTeacher):
    pass


def _scale_messages(rows: Sequence[dict], field: str, classes: list[str]) -> Messages:
    for row in rows:
        if row[field] is not None:
            text = "\n".join(rot_lines([row["rot"]]))
            yield _class_message(text, [classes[row[field] - 1]], classes), True


def _class_message(text: str, labels: list[str], classes: list[str]) -> dict:
    return {"text": text, "labels": labels, "label_candidates": classes, "source": "mic"}
