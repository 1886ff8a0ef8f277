"""Replies sampled from a model: one small interface, in this process or at an address."""

import logging
from collections.abc import Sequence
from typing import Protocol

import torch

from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.engines.openvino import MARK, OpenVINOEngine, installed, openvino_engine
from parlai_prosocial.engines.reply_scores import MAX_CONTEXT_TOKENS, SampledReply
from parlai_prosocial.engines.served import ChatClient, OpenAIEngine
from parlai_prosocial.errors import UserError
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
    engine: str = "auto",
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
        engine: of :data:`~.names.ENGINES`, for a model that lies here; see
            :func:`~parlai_prosocial.engines.openvino.openvino_engine`.

    Raises:
        UserError: there is no such model, or ``engine`` cannot take it.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: use {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if is_address(model):
        client = ChatClient(model, concurrency)
        return OpenAIEngine(client, system_prompt or DEFAULT_SYSTEM_PROMPT)
    opened = open_generator(model, flag, datapath, bf16)
    device = torch.device("cpu") if engine == "openvino" else best_device()
    ours = TransformersEngine(
        opened.backbone.to(device),
        f"{model}@{weights_sha256(opened.folder)[:16]}",
        bf16,
        system_prompt,
        max_context_tokens,
    )
    if engine == "transformers":
        return ours
    return openvino_engine(ours, model, opened.folder, datapath, engine)


def as_begun(engine: str, begun: object) -> str:
    """``auto`` of a run that goes on: what it began with, as its replies depend on it.

    Args:
        engine: of :data:`~.names.ENGINES`.
        begun: the name of the engine that the run recorded; None where it has not begun.
    """
    if engine != "auto" or not isinstance(begun, str):
        return engine
    return "openvino" if begun.endswith(MARK) else "transformers"


def taken(engine: str, model: str, datapath: str, bf16: bool) -> str:
    """What ``auto`` takes for a model, so that others made from it are sampled alike."""
    if engine != "auto" or not installed():
        return "transformers" if engine == "auto" else engine
    opened = open_engine(model, datapath, bf16)
    return "openvino" if isinstance(opened, OpenVINOEngine) else "transformers"
