"""The Moral Integrity Corpus as ParlAI tasks.

``-t mic`` answers a question by a rule of thumb; ``:Rot`` names a rule that judges an answer;
``:Alignment``, ``:Severity``, ``:Consensus`` and ``:Foundations`` are the corpus's attributes, with
the inputs of its authors (Ziems et al., ACL 2022): the rule alone, for the alignment question and
answer too. ``:Contrastive`` has the chatbot's misaligned answers as negatives.
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
            help="MIC.csv or a folder with it; its data-use agreement is at "
            "https://github.com/SALT-NLP/mic. Default: <datapath>/mic/MIC.csv.",
        )
        return parser

    def rows(self, split: str) -> list[dict]:
        return mic.load_rows(
            self.opt["datapath"],
            split,
            source=self.opt["mic_data"],
            sample=self.opt["prosocial_sample"],
            **self.reading(),
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


class _AttributeTeacher(_MicTeacher):
    attribute: str

    def messages(self, split: str) -> Messages:
        for row in self.rows(split):
            question = mic.attribute_question(row, self.attribute)
            if question is not None:
                lines, labels = question
                message = {
                    "text": "\n".join(lines),
                    "labels": labels,
                    "label_candidates": mic.ATTRIBUTES[self.attribute],
                    "source": "mic",
                }
                yield message, True


class AlignmentTeacher(_AttributeTeacher):
    """Does the answer agree with the rule of thumb?"""

    attribute = "alignment"


class SeverityTeacher(_AttributeTeacher):
    """How bad is it to break the rule? Rows without a severity are left out."""

    attribute = "severity"
    needs = "a violation-severity"


class ConsensusTeacher(_AttributeTeacher):
    """How many people would agree with the rule? Rows without a consensus are left out."""

    attribute = "consensus"
    needs = "a rot-agree"


class FoundationsTeacher(_AttributeTeacher):
    """Which moral foundations does the rule rest on? Every one of them is a right label."""

    attribute = "foundations"
    needs = "a moral foundation"


class DefaultTeacher(AnswerTeacher):
    pass
