"""Modules under the names that they had before the rooms, for scripts written then."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "parlai_prosocial.agents.contrast": "parlai_prosocial.agents.batch_loss",
    "parlai_prosocial.data.fields": "parlai_prosocial.data.field_checks",
    "parlai_prosocial.mining.chat": "parlai_prosocial.engines.served",
    "parlai_prosocial.mining.engine": "parlai_prosocial.engines.engine",
    "parlai_prosocial.mining.guards": "parlai_prosocial.judges.guards",
    "parlai_prosocial.mining.journal": "parlai_prosocial.util.journal",
    "parlai_prosocial.mining.judges": "parlai_prosocial.judges.registry",
    "parlai_prosocial.mining.preachy": "parlai_prosocial.judges.rules",
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is {name} now", DeprecationWarning, stacklevel=2)
        module.__getattr__ = partial(getattr, importlib.import_module(name))  # type: ignore


def keep_old_names() -> None:
    """Let old imports find the modules; asked only for what is not there otherwise."""
    sys.meta_path.append(_Moved())
