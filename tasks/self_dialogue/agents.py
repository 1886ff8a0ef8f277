"""The Self-dialogue Corpus as a ParlAI task: ``-t self_dialogue``, casual next-turn replies."""

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.tasks.prosocial.base import CorpusTeacher, Messages

from parlai_prosocial.data.example import CASUAL
from parlai_prosocial.data.self_dialogue import load_dialogues


class DefaultTeacher(CorpusTeacher):
    """The first speaker's turns with their history as text, the second's as labels.

    Each exchange is an episode of its own: ParlAI draws the tasks of a mixture by episodes, so only
    then are the shares of ``--multitask-weights`` shares of examples.
    """

    corpus = "self_dialogue"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("Self-dialogue")
        group.add_argument(
            "--self-dialogue-data",
            type=str,
            default=None,
            help="File or folder of dialogues (id, topic, turns), instead of the bundled sample.",
        )
        return parser

    def messages(self, split: str) -> Messages:
        dialogues = load_dialogues(
            self.opt["datapath"],
            split,
            source=self.opt["self_dialogue_data"],
            **self.reading(),
        )
        for dialogue in dialogues:
            turns = dialogue["turns"]
            # An odd last turn has no answer to learn.
            for index in range(0, len(turns) - 1, 2):
                message = {
                    "text": "\n".join(turns[: index + 1]),
                    "labels": [turns[index + 1]],
                    "safety_label": CASUAL,
                    "contrast_group": f"self_dialogue:{dialogue['id']}",
                    "source": self.corpus,
                }
                yield message, True
