"""How ParlAI installs a model of our zoo, and what it calls for a path that names none."""

import sys
from pathlib import Path

from parlai.utils import logging

from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.zoo.entry import PREFIX, entry_names, find_entry
from parlai_prosocial.zoo.install import install as install_entry

# `-mf zoo:prosocial/...` is resolved before the agent is imported, so errors may start here.
show_user_errors_as_one_line()


def download(datapath: str) -> None:
    """Raise UserError for an entry that is not there.

    ParlAI does not say which was asked for; it handles the failed import of its module meanwhile.
    """
    if isinstance(error := sys.exception(), ModuleNotFoundError):
        find_entry(PREFIX + (error.name or "").rpartition(".")[2])
    known = ", ".join(f"{PREFIX}{name}/model" for name in entry_names())
    raise UserError(f"ParlAI's flags take it as {PREFIX}NAME/model; there are {known}")


def install(entry: str, datapath: str | None) -> Path:
    """Install an entry with ParlAI's log.

    ParlAI takes an ImportError or AttributeError from a download for a missing module, and hides
    it; here they come out as other errors. Its chat services ask without a data path where their
    configuration leaves the agent to the model's own file.
    """
    if datapath is None:
        raise UserError(
            f"{PREFIX}{entry}/model: ParlAI asks for it without its data path; in a chat service's "
            "configuration write `model: prosocial` below its model_file"
        )
    try:
        return install_entry(find_entry(entry), datapath, logging.info)
    except AttributeError as error:
        raise RuntimeError(f"bug or unsupported version: {error}") from error
