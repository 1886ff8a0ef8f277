"""What ParlAI calls for a ``zoo:prosocial/...`` path that names no model of ours."""

from collections.abc import Callable
from pathlib import Path

from parlai.utils import logging

from parlai_prosocial.errors import UserError, show_user_errors_as_one_line

# `-mf zoo:prosocial/...` is resolved before the agent is imported, so errors may start here.
show_user_errors_as_one_line()


def download(datapath: str) -> None:
    """Raise UserError that names the models there are."""
    raise UserError(
        "unknown model in zoo:prosocial; there are "
        "zoo:prosocial/smollm2_135m/model and zoo:prosocial/smollm2_135m_hub/model"
    )


def install(ensure: Callable[[str, Callable[[str], None]], Path], datapath: str) -> Path:
    """Run ``ensure(datapath, say)`` with ParlAI's log, and return its Hugging Face folder.

    ParlAI takes an ImportError or AttributeError from a download for a missing module, and hides
    it; here they come out as other errors.
    """
    try:
        return ensure(datapath, logging.info)
    except ImportError as error:
        raise UserError(f"{error}; `prosocial setup` installs what is missing") from error
    except AttributeError as error:
        raise RuntimeError(f"bug or unsupported version: {error}") from error
