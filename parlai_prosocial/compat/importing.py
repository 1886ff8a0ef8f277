"""Mending modules of another library: when they are imported, and wherever a name was copied."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


class WhenImported(importlib.abc.MetaPathFinder):
    """Calls ``mend(module)`` once, right after the module called ``name`` has been imported."""

    def __init__(self, name: str, mend: Callable[[ModuleType], None]):
        self.name = name
        self.mend = mend

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)  # the search below must find the real one, not this again
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None  # it is one of ParlAI's own files
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.mend(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_imported(name: str, mend: Callable[[ModuleType], None]) -> None:
    """Call ``mend(module)`` on the module called ``name``: now, or when it is imported."""
    if name in sys.modules:
        mend(sys.modules[name])
    else:
        sys.meta_path.insert(0, WhenImported(name, mend))


def replace_everywhere(original: Callable, replacement: Callable) -> None:
    """Replace a function of ParlAI in its module and in those that copied it by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("parlai.") and vars(module).get(original.__name__) is original:
            setattr(module, original.__name__, replacement)
