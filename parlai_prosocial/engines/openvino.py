"""OpenVINO GenAI beside torch: the same model sampled on a CPU in a process of its own, faster.

The model goes there as the f16 GGUF file of our own writer, token ids go there and come back, and
everything else stays here: prompts, the text of replies, log p. ``--engine auto`` takes it only
where its greedy replies are ours, which is tried once for each model's weights.
"""

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from typing_extensions import TypedDict

from parlai_prosocial.engines import openvino_child
from parlai_prosocial.engines.child import Child
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.seeds import own_seed
from parlai_prosocial.errors import UserError
from parlai_prosocial.export.gguf import write_gguf
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.util.files import json_text, read_json, write_aside
from parlai_prosocial.zoo.resolve import open_generator

logger = logging.getLogger(__name__)

LLAMA = "llama"
"""``model_type`` of what our GGUF writer takes."""
MARK = "+openvino"
"""At the end of the names of these engines."""
PACKAGE = "openvino-genai"
MEND = "run the same command again to go on, or give --engine transformers"
LEAST_EQUAL = 0.99
"""Share of the tokens of greedy replies."""
CHECKED_TOKENS = 40
_OPENINGS = (
    "I lied to my flatmate about the rent.",
    "Hi! How was your weekend?",
    "We saw a heron by the river today.",
    "My sister never calls me back.",
    "Can you help me plan a birthday dinner?",
)
_ENDINGS = (
    "What should I do now?",
    "Tell me what you think.",
    "Is that normal?",
    "I am tired of it.\nThat sounds hard. What happened?\nIt is a long story to tell.",
)
CHECKED = [f"{opening} {ending}" for opening in _OPENINGS for ending in _ENDINGS]
"""The contexts in which greedy replies are compared."""


class OpenVINOEngine(TransformersEngine):
    """Our model, whose replies OpenVINO GenAI samples; log p is still ours.

    A context's replies depend on (seed, context, n), not on what stands beside it, but by
    rounding: its n replies draw from one generator of their own, so that asking for fewer gives
    others. The same batch gives the same bits on the same machine. They are not the replies that
    :class:`TransformersEngine` draws, so the engine belongs to a run's settings.

    Args:
        child: :mod:`~parlai_prosocial.engines.openvino_child`, which has opened the same weights.
        ours: whose model, prompt and precision this takes; its name gets :data:`MARK`.
    """

    def __init__(self, child: Child, ours: TransformersEngine):
        super().__init__(
            ours.backbone,
            f"{ours.name}{MARK}",
            ours.bf16,
            max_context_tokens=ours.max_context_tokens,
        )
        self.prompt = ours.prompt
        self.child = child

    def _sample_ids(
        self,
        contexts: Sequence[str],
        encoded: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float,
        top_p: float,
    ) -> list[list[list[int]]]:
        if not contexts:
            return []
        answer = self.child.ask(
            {
                "contexts": [list(ids) for ids in encoded],
                "seeds": [own_seed(seed, context, n) % 2**31 for context in contexts],
                "n": n,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "stops": self.prompt.stop_ids,
            }
        )
        return answer["replies"]


class _Check(TypedDict):
    """Of one model's weights: how many tokens of greedy replies there are, and how many equal."""

    tokens: int
    equal: int


def installed() -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec("openvino_genai") is not None


def openvino_engine(
    ours: TransformersEngine, model: str, folder: Path, datapath: str, chosen: str
) -> TransformersEngine:
    """The engine to sample a model with, by ``--engine``.

    Args:
        ours: the model, opened.
        model: its name.
        folder: of its own weights.
        datapath: where it is kept how greedy replies compared, and GGUF files for a moment.
        chosen: ``openvino``: that or an error. ``auto``: that where it is installed, there is no
            GPU, and its greedy replies equal ours; else ``ours``.

    Raises:
        UserError: ``openvino`` was asked for, and it is not installed or does not take the model.
    """
    if chosen == "openvino" and not installed():
        raise UserError(
            f"--engine openvino: {PACKAGE} is not installed; "
            "pip install 'parlai-prosocial[openvino]', or give --engine transformers"
        )
    if chosen == "openvino":
        return _opened(ours, model, datapath)
    config = ours.backbone.lm.config
    if not installed() or best_device().type != "cpu" or config.model_type != LLAMA:
        return ours
    weights = "-".join(weights_sha256(f)[:16] for f in (folder, ours.backbone.folder))
    file = Path(datapath) / "models" / "prosocial_openvino" / f"{weights}.json"
    try:
        if file.is_file():
            check = read_json(file, _Check, "delete it")
        else:
            check = _compared(model, datapath)
            write_aside(file, json_text({**check, "version": metadata.version(PACKAGE)}))
        share = check["equal"] / max(1, check["tokens"])
        if share >= LEAST_EQUAL:
            return _opened(ours, model, datapath)
    except UserError as error:
        logger.warning("%s; sampling with transformers", error)
        return ours
    logger.warning(
        "%s: OpenVINO's greedy replies equal ours in %.1f %% of tokens, below %.0f %%; sampling "
        "with transformers",
        *(model, 100 * share, 100 * LEAST_EQUAL),
    )
    return ours


def _opened(ours: TransformersEngine, model: str, datapath: str) -> OpenVINOEngine:
    if (kind := ours.backbone.lm.config.model_type) != LLAMA:
        raise UserError(
            f"--engine openvino: {model} is a {kind}, and only Llama-shaped models go there; give "
            "--engine transformers"
        )
    return OpenVINOEngine(open_child(model, datapath, ours.bf16), ours)


def _compared(model: str, datapath: str) -> _Check:
    """Greedy replies of both, in float32: in bfloat16 each parts from itself now and then."""
    ours = TransformersEngine(open_generator(model, "--model", datapath).backbone, model)
    theirs = _opened(ours, model, datapath)
    encoded = ours._encode(CHECKED, CHECKED_TOKENS)
    settings = (1, CHECKED_TOKENS, 0, 0.0, 1.0)
    pairs = [
        (own, other)
        for [own], [other] in zip(
            ours._sample_ids(CHECKED, encoded, *settings),
            theirs._sample_ids(CHECKED, encoded, *settings),
            strict=True,
        )
    ]
    theirs.child.close()
    tokens = sum(max(len(own), len(other)) for own, other in pairs)
    equal = sum(a == b for own, other in pairs for a, b in zip(own, other, strict=False))
    return {"tokens": tokens, "equal": equal}


def open_child(model: str, datapath: str, bf16: bool) -> Child:
    """A child with a model, an adapter merged, in the given precision.

    Raises:
        UserError: OpenVINO does not take it, or our GGUF writer doesn't.
    """
    place = Path(datapath) / "models"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prosocial_openvino-", dir=place) as name:
        folder = Path(name)
        # Anew, as merging changes the model.
        export_model(open_generator(model, "--model", datapath), folder / "model")
        try:
            write_gguf(folder / "model", folder / "model.gguf")
        except UserError as error:
            raise UserError(f"--engine openvino: {error}; or give --engine transformers") from None
        child = Child([sys.executable, "-P", openvino_child.__file__], f"OpenVINO, {model}", MEND)
        threads = torch.get_num_threads()
        child.ask({"model": str(folder / "model.gguf"), "bf16": bf16, "threads": threads})
    return child
