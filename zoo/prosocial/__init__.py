"""Our zoo as ParlAI wants it: for every entry ``NAME`` a module here with ``download``.

ParlAI imports ``parlai.zoo.prosocial.NAME`` for ``zoo:prosocial/NAME/model``. The modules are made
from the entries, so that an entry is one JSON file (``parlai_prosocial/zoo/entries``) and no more.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

from parlai.zoo.prosocial.build import install

from parlai_prosocial.zoo.entry import entry_names


def _download_of(entry: str) -> Callable[[str], Path]:
    def download(datapath: str) -> Path:
        """Install the model under ``datapath``; return its folder, of a base its weights'."""
        return install(entry, datapath)

    return download


for _entry in entry_names():
    # The import system takes a submodule that its package has put into sys.modules.
    _module = module_from_spec(ModuleSpec(f"{__name__}.{_entry}", loader=None))
    _module.download = _download_of(_entry)
    sys.modules[_module.__name__] = _module
