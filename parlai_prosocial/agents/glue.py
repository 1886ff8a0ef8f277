"""What our agents over a Hugging Face tokenizer and checkpoint have in common in ParlAI."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.torch_agent import TorchAgent
from parlai.utils.distributed import is_distributed, sync_object

from parlai_prosocial.agents.dictionary import DialogueHistory, TokenizerDictionary
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.checkpoint import SavedModel
from parlai_prosocial.models.precision import bf16_is_faster
from parlai_prosocial.zoo.resolve import Kind, find


def refuse_ignored(opt: Opt, path: str, facts: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` for a flag that was typed, but that a checkpoint decides.

    Args:
        opt: as a command has parsed it.
        path: of the checkpoint.
        facts: what the checkpoint has, by the option's name.
    """
    typed = opt.get("override") or {}
    for name, fact in facts.items():
        value = typed.get(name)
        if value is not None and value != fact:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value}: does not act on {path}, which has {fact!r} already; leave "
                f"{flag} out, or begin from a base"
            )


def refuse_torchscript(opt: Opt) -> None:
    """Raise :class:`UserError` under ``parlai torchscript``, which knows ParlAI's own models."""
    if opt.get("scripted_model_file"):
        raise UserError(
            "torchscript: writes ParlAI's own BART and transformers only; write this model for "
            "other programs with `prosocial export hf` or `prosocial export gguf`"
        )


class HuggingFaceGlue(TorchAgent):
    """Dictionary, history, and a training state without the weights, which lie beside it."""

    @classmethod
    def upgrade_opt(cls, opt_from_disk: Opt) -> Opt:
        """No option of ours is old enough for ParlAI's upgrades, and a zoo base names few."""
        return opt_from_disk

    @classmethod
    def fill_defaults(cls, opt: Opt) -> None:
        """Give ``opt`` what neither it nor the model's file says.

        ParlAI's commands parse our flags, its ``create_agent_from_model_file`` parses none, and a
        model of the zoo keeps only what belongs to it.
        """
        parser = ParlaiParser(add_parlai_args=False, add_model_args=False)
        cls.add_cmdline_args(parser, opt)
        for name, default in parser.parse_args([]).items():
            opt.setdefault(name, default)

    @classmethod
    def optim_opts(cls) -> dict[str, Any]:
        """ParlAI's, with AdamW in one kernel, which is equal but for rounding and faster."""
        return super().optim_opts() | {"adamw": partial(torch.optim.AdamW, fused=True)}

    @staticmethod
    def dictionary_class() -> type[TokenizerDictionary]:
        return TokenizerDictionary

    @classmethod
    def history_class(cls) -> type[DialogueHistory]:
        return DialogueHistory

    def _get_init_model(self, opt: Opt, shared: Any) -> tuple[str | None, bool]:
        """As ParlAI's, which would train from scratch where ``--init-model`` is not there."""
        resumes = opt.get("model_file") and Path(opt["model_file"]).is_file()
        if not shared and opt.get("init_model") and not resumes:
            found = find(opt["init_model"], "--init-model", opt.get("datapath"))
            if found.kind not in (Kind.CHECKPOINT, Kind.CLASSIFIER, Kind.FILE):
                raise found.refused(f"is {found.kind}; begin with it by --backbone")
            opt["init_model"] = str(found.place)
        return super()._get_init_model(opt, shared)

    def computes_in_bf16(self, saved: SavedModel | None) -> bool:
        """What ``--precision`` says; ``auto`` is decided where a run begins, for all processes.

        Which precision is faster is measured, and a busy machine may measure otherwise.

        Args:
            saved: the checkpoint that training goes on from, None where nothing was begun.
        """
        precision = self.opt["precision"]
        if precision == "auto" and saved is not None:
            precision = saved.info.get("precision", "auto")  # checkpoints of before have none
        if precision == "auto":
            faster = bf16_is_faster(torch.device("cuda" if self.use_cuda else "cpu"))
            return sync_object(faster) if is_distributed() else faster
        return precision == "bf16"

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and scheduler state; weights are saved in Hugging Face's own layout."""
        states = super().state_dict()
        states.pop("model", None)
        return states
