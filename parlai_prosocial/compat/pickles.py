"""ParlAI's files are read without running what a stranger wrote into them.

A pickle can run any code when it is read, and ParlAI 1.7.2 reads two kinds of them, in every
version:

- ``Opt.load`` unpickles a file of options that is not UTF-8, as ParlAI before 2019 wrote them:
  ``model.opt`` beside every ``-mf`` and ``--init-model``, and each file of ``-o``.
- Weights are read with a ``pickle_module`` of its own, by which ``torch.load`` runs everything:
  ``-mf`` and ``--init-model`` of ParlAI's agents, ``parlai vacuum``.

Here options are JSON and nothing else, and weights may hold tensors, numbers and plain containers,
or more where ``--trust-pickle`` was typed. That counts on the command line only: a stranger's own
``.opt`` would grant it too. ``Opt.save`` writes in place, so that a kill or a full disk leaves half
of the options; they are written aside here and moved.

ParlAI reads the options of ``-mf`` before it imports any agent. So this is mended when
``parlai_prosocial`` is imported, which the ``parlai`` command does at its start, through the folder
of scripts that it looks for under the name ``parlai_internal``; see ``startup/`` and ``setup.py``.
"""

import argparse
import functools
import json
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

from parlai_prosocial.compat.importing import when_imported
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import file_sha256, write_aside

FLAG = "--trust-pickle"

_trusted = False


def refuse_pickles() -> None:
    """Mend ParlAI's readers, now or as soon as ParlAI is imported; imports nothing by itself."""
    when_imported("parlai.core.opt", _read_options_as_json)
    when_imported("parlai.core.params", _add_flag)
    when_imported("parlai.utils.pickle", _read_tensors_only)


def read_options(file: Any) -> dict[str, Any]:
    """ParlAI's options in a file of JSON.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except UnicodeDecodeError:
        raise UserError(
            f"{file}: is not JSON; options that ParlAI pickled before 2019 are not opened, since a "
            "pickle can run code: write them anew as JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is not whole JSON ({error}); restore the file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no options, a JSON object; restore the file")
    return content


def _read_options_as_json(opt: ModuleType) -> None:
    # ParlAI's own list of what is no option but was one run's; other names are mangled in classes.
    dropped = opt.__dict__["__AUTOCLEAN_KEYS__"]

    def load(cls, optfile: str):
        options = read_options(optfile)
        return cls({key: value for key, value in options.items() if key not in dropped})

    def save(self, filename: str) -> None:
        kept = {key: value for key, value in self.items() if key not in dropped}
        write_aside(Path(filename), json.dumps(kept, indent=4) + "\n")

    opt.Opt.load = classmethod(load)
    opt.Opt.save = save


class _Trust(argparse.Action):
    """``--trust-pickle``, or ``--trust-pickle true`` as ParlAI's other flags are written."""

    def __call__(self, parser, namespace, values, option_string=None):
        global _trusted
        _trusted = values
        setattr(namespace, self.dest, values)


def _add_flag(params: ModuleType) -> None:
    add_model_args = params.ParlaiParser.add_model_args

    @functools.wraps(add_model_args)
    def with_flag(self):
        add_model_args(self)
        self.add_argument(
            FLAG,
            action=_Trust,
            nargs="?",
            const=True,
            default=False,
            type=params.str2bool,
            help="Open weights that hold more than tensors, which can run any code; says their "
            "sha256. For files whose writer you know.",
        )

    params.ParlaiParser.add_model_args = with_flag


def _read_tensors_only(pickle: ModuleType) -> None:
    """Mend ``torch.load`` for calls with ParlAI's ``pickle_module``; others stay as they are."""
    import torch

    original = torch.load

    @functools.wraps(original)
    def load(f, map_location=None, pickle_module=None, **kwargs):
        if pickle_module is not pickle:
            return original(f, map_location, pickle_module, **kwargs)
        return read_states(getattr(f, "name", f), map_location)

    torch.load = load
    pickle.unrestricted = functools.partial(original, pickle_module=pickle)  # type: ignore


def read_states(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """What a weights file of ParlAI holds.

    Args:
        file: its path.
        map_location: of ``torch.load``.

    Raises:
        UserError: it is torn, or holds more than tensors and plain containers and
            ``--trust-pickle`` was not given.
    """
    import parlai.utils.pickle
    import torch

    try:
        with torch.serialization.safe_globals(_numbers()):
            return torch.load(file, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        if not _trusted:
            raise UserError(
                f"{file}: holds no weights, or more than tensors and plain containers, so that "
                f"opening it could run any code; if you trust who wrote it, add {FLAG} to the "
                "parlai command"
            ) from error
    except Exception as error:  # damaged bytes end in whatever torch stumbles over
        raise UserError(
            f"{file}: is torn, or holds no weights ({type(error).__name__}); restore the file"
        ) from None
    print(f"{FLAG}: opening {file}, sha256 {file_sha256(Path(file))}")
    return parlai.utils.pickle.unrestricted(file, map_location=map_location)


def _numbers() -> list[Any]:
    """What torch must know to read numpy's numbers, which some schedules of ParlAI hold."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqefd"}]
