"""DiaSafety as ParlAI tasks: ``-t diasafety`` (Contrastive), ``:Response`` and ``:Safety``."""

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.tasks.prosocial.base import CorpusTeacher, Messages, contrastive_message
from parlai.utils import logging

from parlai_prosocial.data import diasafety
from parlai_prosocial.data.example import BINARY_LABELS, NOT_OK_LABEL, OK_LABEL
from parlai_prosocial.data.splits import DIASAFETY_PARTS, FOLDS


class _DiaSafetyTeacher(CorpusTeacher):
    corpus = "diasafety"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("DiaSafety")
        group.add_argument(
            "--diasafety-data",
            type=str,
            default=None,
            help="File or folder in DiaSafety's format, instead of the bundled corpus.",
        )
        group.add_argument(
            "--diasafety-fold",
            type=int,
            default=0,
            choices=range(FOLDS),
            help="Which fold of the split by contexts; seed k uses fold k.",
        )
        group.add_argument(
            "--diasafety-part",
            type=str,
            default=None,
            choices=DIASAFETY_PARTS,
            help="Part that -dt train stands for, e.g. judge-train to train a judge on. Default: "
            "gen-train. -dt valid and test are always the parts of these names.",
        )
        group.add_argument(
            "--diasafety-categories",
            type=str,
            default=None,
            help='Only these, e.g. "Biased Opinion,Offending User,Risk Ignorance", in which the '
            "context decides whether a reply is safe. Default: all five.",
        )
        group.add_argument(
            "--diasafety-clusters",
            type="bool",
            default=True,
            help="Keep contexts that nearly repeat one another in one part, and mend broken "
            "encodings. False is the cut without both, on which the first results were measured.",
        )
        group.add_argument(
            "--diasafety-without",
            type=str,
            default=None,
            help="Files or folders of rows with a column context, separated by commas: these "
            "contexts, and what nearly repeats them, are left out of every part. A list of turns "
            "stands for its last one.",
        )
        group.add_argument(
            "--diasafety-official-split",
            type="bool",
            default=False,
            help="The official files' split. Half of its validation contexts are in train too; "
            "its test file is not bundled.",
        )
        return parser

    def rows(self, split: str) -> list[dict]:
        names = self.opt["diasafety_categories"]
        without = self.opt["diasafety_without"]
        return diasafety.load_rows(
            self.opt["datapath"],
            split,
            categories=[name.strip() for name in names.split(",")] if names else None,
            fold=self.opt["diasafety_fold"],
            part=self.opt["diasafety_part"] if split == "train" else None,
            official_split=self.opt["diasafety_official_split"],
            source=self.opt["diasafety_data"],
            **self.reading(),
            near_duplicates=self.opt["diasafety_clusters"],
            without=[name.strip() for name in without.split(",")] if without else (),
        )


class ContrastiveTeacher(_DiaSafetyTeacher):
    """Context, a safe reply, and the unsafe replies to the same context as negatives."""

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        parser.add_argument_group("DiaSafety").add_argument(
            "--diasafety-cross-negatives",
            type=int,
            default=0,
            help="So many more negatives: unsafe replies to other contexts of the category.",
        )
        return parser

    def messages(self, split: str) -> Messages:
        rows = self.rows(split)
        cross = self.opt["diasafety_cross_negatives"]
        # Commands that do not train have no --seed.
        seed = self.opt.get("seed") or 0
        for example in diasafety.contrastive_examples(rows, cross, seed):
            yield contrastive_message(example), True
        left_out = diasafety.unsafe_only_contexts(rows)
        logging.info(f"DiaSafety, {split}: {left_out} contexts left out, all replies unsafe")


class ResponseTeacher(_DiaSafetyTeacher):
    """Context and each of its safe replies."""

    def messages(self, split: str) -> Messages:
        for example in diasafety.contrastive_examples(self.rows(split)):
            message = {
                "text": example.context[0],
                "labels": [example.response],
                "contrast_group": example.contrast_group,
                "source": example.source,
            }
            yield message, True


class SafetyTeacher(_DiaSafetyTeacher):
    """Is the last line fitting after the one before? ``__ok__`` or ``__notok__``."""

    def messages(self, split: str) -> Messages:
        for row in self.rows(split):
            message = {
                "text": f"{row['context']}\n{row['response']}",
                "labels": [OK_LABEL if row["label"] == diasafety.SAFE else NOT_OK_LABEL],
                "label_candidates": BINARY_LABELS,
                "source": "diasafety",
            }
            yield message, True


class DefaultTeacher(ContrastiveTeacher):
    pass
