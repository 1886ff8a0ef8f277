"""Reading what others have saved: weights and settings, never code, and all of it or one line."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.finite import refuse_non_finite
from parlai_prosocial.util.files import read_json

MODEL_FILES = "config.json, model.safetensors and the tokenizer's files"
ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# peft asks transformers 5 for it, whatever the model; nothing for a user to mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")


@contextmanager
def loading(path: Path, needs: str) -> Iterator[None]:
    """Turn what transformers and peft raise of files that they cannot open into one line.

    Every ``from_pretrained`` inside says ``trust_remote_code=False``: left open, transformers asks
    on stdin whether to run a model's own code.

    Args:
        path: what is loaded, for the message.
        needs: the files that it must consist of.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever such a file makes these libraries stumble over
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path}: brings code of its own (auto_map in its config), which is never run; "
                "give a model whose architecture transformers knows by itself"
            ) from None
        first_line = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: cannot be loaded ({first_line}); it needs {needs}") from None


def check_folder(folder: Path) -> None:
    """Raise :class:`UserError` where a folder is no Hugging Face model's."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json there; give a Hugging Face folder")
    read_json(folder / "config.json")


def load_adapter(model: Any, folder: Path, trainable: bool) -> Any:
    """Put a saved peft adapter on a model.

    Raises:
        UserError: its files are torn, or not for this model.
    """
    from peft import PeftModel

    read_json(folder / ADAPTER_FILE)
    needs = f"{ADAPTER_FILE} and {ADAPTER_WEIGHTS}, made for this base"
    if not (folder / ADAPTER_WEIGHTS).is_file():  # peft would take a pickled one instead
        raise UserError(f"{folder}: has no {ADAPTER_WEIGHTS}; it needs {needs}")
    with loading(folder, needs):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def load_weights(module: nn.Module, file: Path) -> None:
    """Load a small module's weights from safetensors.

    Raises:
        UserError: the file is torn, of another shape, or holds NaN.
    """
    with loading(file, "this module's weights as safetensors"):
        module.load_state_dict(load_file(file))
    refuse_non_finite(module, str(file))
