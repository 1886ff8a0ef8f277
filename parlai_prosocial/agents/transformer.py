"""``-m prosocial/transformer``: ParlAI's own TransformerGenerator, trained by contrast too.

So every generator of ParlAI's zoo can be tuned: a file of ``-m transformer/generator`` is a valid
``--init-model``, and one tuned here runs under plain ``-m transformer/generator``. Architecture,
dictionary, decoding and checkpoint layout are ParlAI's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from parlai.agents.transformer.modules import (
    TransformerGeneratorModel,
    get_n_positions_from_options,
)
from parlai.agents.transformer.transformer import TransformerGeneratorAgent
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.utils import logging

from parlai_prosocial.agents import options
from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.agents.contrastive import ContrastiveAgent
from parlai_prosocial.agents.schedule import keep_last_step
from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.pickles import read_states
from parlai_prosocial.errors import show_user_errors_as_one_line
from parlai_prosocial.models.packing import repeat_index
from parlai_prosocial.models.scores import CandidateScores, reply_tokens, token_log_probs
from parlai_prosocial.models.seq2seq import pad_right

compat.apply()
show_user_errors_as_one_line()


class CandidateTransformer(TransformerGeneratorModel):
    """ParlAI's model, whose forward pass encodes a context once for all of its candidates."""

    def forward(  # type: ignore[override]
        self, contexts: torch.Tensor, candidates: torch.Tensor, owners: torch.Tensor
    ) -> torch.Tensor:
        """Score candidates under teacher forcing.

        Args:
            contexts: (E, context length) int64, padded with ``pad_idx``.
            candidates: (C, response length) int64, end token included, padded.
            owners: (C,) int64; the context of each candidate.

        Returns:
            (C, response length, vocabulary) logits.
        """
        states = self.reorder_encoder_states(self.encoder(contexts), owners)
        return self.decode_forced(states, candidates)[0]


class TransformerAgent(ContrastiveAgent, TransformerGeneratorAgent):
    """A TransformerGeneratorAgent that trains as :class:`ContrastiveAgent` says.

    The score is the likelihood: ParlAI's checkpoints have no place for a contrast head.
    """

    temperature_flag = "contrast_temperature"

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        # --temperature stays ParlAI's, of decoding: the options must mean the same there.
        options.add_contrast_arguments(
            parser, partial_opt, temperature_flag="--contrast-temperature"
        )
        return parser

    def __init__(self, opt: Opt, shared: Any = None):
        if shared is None:
            options.check_contrast(opt, self.temperature_flag)
            _fit_positions(opt)
        super().__init__(opt, shared)

    def build_model(self, states: Any = None) -> CandidateTransformer:
        model = CandidateTransformer(self.opt, self.dict)
        if self.opt["embedding_type"] != "random":
            self._copy_embeddings(model.encoder.embeddings.weight, self.opt["embedding_type"])
        return model

    def load(self, path: str) -> dict[str, Any]:
        """As ParlAI's; raises what :func:`~.pickles.read_states` does."""
        states = read_states(path)
        if "model" in states:
            self.load_state_dict(states["model"])
        return states  # ParlAI makes the optimiser from them afterwards

    def build_lr_scheduler(
        self, states: dict[str, Any] | None = None, hard_reset: bool = False
    ) -> None:
        super().build_lr_scheduler(states, hard_reset)
        keep_last_step(self.scheduler, self.opt)

    def score_examples(self, examples: Sequence[Example]) -> tuple[CandidateScores, float, Any]:
        contexts, context_mask = pad_right([e.context for e in examples], self.NULL_IDX)
        counts = [1 + len(e.negatives) for e in examples]
        responses = [y for e in examples for y in (e.response, *e.negatives)]
        targets, mask = pad_right(responses, self.NULL_IDX)  # (C, response length)
        padding = 1 - (context_mask.sum() + mask.sum()) / (context_mask.numel() + mask.numel())
        if self.use_cuda:
            contexts, targets, mask = contexts.cuda(), targets.cuda(), mask.cuda()
        owners = repeat_index(counts).to(targets.device)
        logits = self.model(contexts, targets, owners)  # (C, response length, vocabulary)
        log_probs, correct = token_log_probs(logits[mask], targets[mask])
        rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
        scores = CandidateScores(
            token_log_probs=log_probs,
            token_correct=correct,
            token_candidates=rows,
            token_in_reply=reply_tokens(targets[mask], rows, [self.END_IDX]),
            candidate_examples=owners,
        )
        firsts = [sum(counts[:i]) for i in range(len(counts))]
        of_labels = logits[firsts][:, : max(len(e.response) for e in examples)]
        return scores, padding.item(), (of_labels, of_labels.argmax(-1), None)


LONGEST_REPLY = 256
"""Of ParlAI's generators, where --label-truncate says nothing."""


def _fit_positions(opt: Opt) -> None:
    """Cut texts and replies to what the model has positions for; ParlAI's would not.

    It makes as many positions as the longest of its truncations, and leaves uncut what has none.
    """
    positions = get_n_positions_from_options(opt)
    for name, most in (("text_truncate", None), ("label_truncate", LONGEST_REPLY)):
        given = [opt.get(name), opt.get("truncate")]
        longest = next((n for n in given if n is not None and n > 0), most)
        if longest is None or longest > positions:
            opt[name] = positions
            flag = "--" + name.replace("_", "-")
            logging.info(f"{flag} {positions}: the model has no more positions")
