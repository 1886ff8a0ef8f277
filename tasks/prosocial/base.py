"""What our teachers share: flags of every task, and messages from contrastive examples."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.teachers import DialogTeacher
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import get_rank, num_workers

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.data.example import ContrastiveExample, packed_text, rot_lines
from parlai_prosocial.data.formats import file_size
from parlai_prosocial.data.splits import stable_fraction
from parlai_prosocial.errors import EmptySplit, UserError, show_user_errors_as_one_line

show_user_errors_as_one_line()
compat.apply()

Messages = Iterator[tuple[dict, bool]]
"""Pairs of a message and whether it begins an episode, as ParlAI's DialogTeacher takes them."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Inside, Python does not look for cycles of garbage.

    Rows that are read make none, and the search through all read so far, again and again, takes
    two thirds of the time of opening 100,000 of them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CorpusTeacher(DialogTeacher):
    """A teacher over one of our corpora; a subclass yields its messages in ``messages``.

    ``needs`` says, for the error message, what a row must have to be an example here.
    """

    corpus: str
    needs = "a text and a reply"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("Prosocial corpora")
        group.add_argument(
            "--skip-bad-rows",
            type="bool",
            default=False,
            help="Leave out rows that cannot be used, and say how many, instead of stopping.",
        )
        group.add_argument(
            "--max-file-size",
            type=str,
            default="2GB",
            help="Stop at a data file that holds more than this, unpacked.",
        )
        return parser

    def reading(self) -> dict[str, Any]:
        """What the flags say about reading files, as every corpus's reader takes it."""
        return {
            "skip_bad_rows": self.opt["skip_bad_rows"],
            "max_file_size": file_size(self.opt["max_file_size"]),
        }

    def __init__(self, opt: Opt, shared=None):
        self._lengths: tuple[int, int] | None = None
        # ParlAI shares a task out among processes in evaluation alone; in training each would take
        # the same examples in the same order, and two would do the work of one.
        self.shares_out = DatatypeHelper.is_training(opt["datatype"]) and num_workers() > 1
        self.streamed = 0
        # ParlAI wants a file name here and passes it to setup_data; our readers know theirs.
        with without_collector():
            super().__init__(Opt({**copy.deepcopy(opt), "datafile": self.corpus}), shared)

    def setup_data(self, datafile: str) -> Messages:
        if not (self.shares_out and "stream" in self.opt["datatype"]):
            yield from self._all_messages()
            return
        for message in self._all_messages():
            if self._streams_here(self.streamed):
                yield message
            self.streamed += 1

    def _streams_here(self, index: int) -> bool:
        """Whether this process takes the stream's episode, counted over all epochs.

        One process with the joint batch B reads two episodes for each of its B places at first,
        since ParlAI looks ahead, and then B at a time; each process takes its places' share.
        """
        own = self.opt["batchsize"]
        joint = own * num_workers()
        if index < 2 * joint:
            return index // (2 * own) == get_rank()
        return index % joint // own == get_rank()

    def _all_messages(self) -> Messages:
        split = self.opt["datatype"].split(":")[0]
        empty = True
        for message in self.messages(split):
            empty = False
            yield message
        if empty:
            raise EmptySplit(
                f"-t {self.opt['task']}: no row of -dt {split} has {self.needs}; add some to the "
                "data, or take another task"
            )

    def next_episode_idx(self, num_eps: int | None = None, loop: bool | None = None) -> int:
        index = super().next_episode_idx(num_eps, loop=False if self.shares_out else loop)
        if self.random or not self.shares_out:
            return index
        # The episodes of all processes together are those of one with the joint batch.
        return (index * num_workers() + get_rank()) % (num_eps or self.num_episodes())

    # A stream's own count is cached by ParlAI in "<datafile>.lengths" in the working directory,
    # whatever the split and flags. So streams are counted here.
    def num_episodes(self) -> int:
        return self._stream_lengths()[0] if self.stream else super().num_episodes()

    def num_examples(self) -> int:
        return self._stream_lengths()[1] if self.stream else super().num_examples()

    def _stream_lengths(self) -> tuple[int, int]:
        if self._lengths is None:
            starts = [new_episode for _, new_episode in self._all_messages()]
            self._lengths = sum(starts), len(starts)
        return self._lengths

    def messages(self, split: str) -> Messages:
        """Yield the messages of ``train``, ``valid`` or ``test``."""
        raise NotImplementedError


def add_sample_flag(parser: ParlaiParser) -> None:
    parser.add_argument_group("Prosocial corpora").add_argument(
        "--prosocial-sample",
        type="bool",
        default=False,
        help="Use the small bundled samples of ProsocialDialog and MIC (most rows written for this "
        "package, in the corpora's formats) instead of the corpora.",
    )


def add_rot_flag(parser: ParlaiParser) -> None:
    parser.add_argument_group("Prosocial corpora").add_argument(
        "--rot-in-context",
        type=float,
        default=0.5,
        help="Share of the examples with rules of thumb whose context carries them (0 to 1). "
        "A hash of the example decides, so an example always falls on the same side.",
    )


def contrastive_message(example: ContrastiveExample, rot_share: float = 0.0) -> dict:
    """Return the message of an example.

    ``rot_share`` of all examples carry their rules of thumb in ``text``, a line each before the
    turns; a hash of the example decides.
    """
    if not 0 <= rot_share <= 1:
        raise UserError(f"--rot-in-context {rot_share}: give a share from 0 to 1")
    first_lines = []
    if example.rots:
        key = "\n".join(["rot-in-context", *example.context, example.response])
        first_lines = rot_lines(example.rots) if stable_fraction(key) < rot_share else []
    message = {
        "text": packed_text([*first_lines, *example.context]),
        "labels": [example.response],
        "rots": list(example.rots),
        "negatives": list(example.negatives),
        "negative_weights": list(example.negative_weights),
        "contrast_group": example.contrast_group,
        "source": example.source,
    }
    if example.reference_log_prob is not None:
        message["reference_log_prob"] = example.reference_log_prob
    if example.negative_reference_log_probs:
        message["negative_reference_log_probs"] = list(example.negative_reference_log_probs)
    if example.safety_label is not None:
        message["safety_label"] = example.safety_label
    return message
