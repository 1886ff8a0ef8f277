"""Replies sampled from a model: one small interface, in this process or at an address."""

import logging
from collections.abc import Sequence
from typing import Protocol

from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import MAX_CONTEXT_TOKENS, SampledReply
from parlai_prosocial.engines.served import ChatClient, OpenAIEngine
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT
from parlai_prosocial.util.missing import Missing
from parlai_prosocial.zoo.resolve import is_address, open_generator

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Samples replies.

    Attributes:
        name: the model and its weights, for the record and for telling runs apart.
        missing: why replies are missing, and how many for each reason, since it was opened.
    """

    name: str
    missing: Missing

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        """Sample n replies to each newline-packed context.

        Args:
            contexts: as ParlAI packs them, the user's turn last.
            n: replies a context.
            max_tokens: longest reply, end-of-turn and thoughts included.
            seed: the same seed gives a context the same replies, whatever stands beside it.
            temperature: of the softmax; 0 is greedy.
            top_p: mass of the nucleus (Holtzman et al. 2020), in (0, 1].

        Returns:
            For each context n replies without the thoughts before them; None where there is none,
            because a call failed or a thought did not end.
        """
        ...


def open_engine(
    model: str,
    datapath: str,
    bf16: bool,
    system_prompt: str | None = None,
    concurrency: int = 8,
    max_context_tokens: int = MAX_CONTEXT_TOKENS,
    flag: str = "--model",
) -> Engine:
    """The engine for a model's name.

    Args:
        model: any name that :mod:`parlai_prosocial.zoo.resolve` knows of a model that replies.
        datapath: ParlAI's data path.
        bf16: compute in bfloat16 (not at an address).
        system_prompt: instead of the model's own.
        concurrency: most calls to an address at a time.
        max_context_tokens: see :class:`TransformersEngine`; an address cuts by itself.
        flag: under which the name was given, for errors.

    Raises:
        UserError: there is no such model.
    """
    if is_address(model):
        client = ChatClient(model, concurrency)
        return OpenAIEngine(client, system_prompt or DEFAULT_SYSTEM_PROMPT)
    opened = open_generator(model, flag, datapath, bf16)
    return TransformersEngine(
        opened.backbone.to(best_device()),
        f"{model}@{weights_sha256(opened.folder)[:16]}",
        bf16,
        system_prompt,
        max_context_tokens,
    )
