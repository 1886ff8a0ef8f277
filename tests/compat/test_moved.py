"""Old imports give the very things that the new ones do, and say so."""

import subprocess
import sys
from importlib import import_module

import pytest

from parlai_prosocial.compat.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_module(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is {MOVED[old]} now"):
        module = import_module(old)
    new = import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        import_module("parlai_prosocial.mining.oracle")


def test_names_can_be_imported_from_it():
    code = "from parlai_prosocial.mining.chat import ChatClient; print(ChatClient.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "parlai_prosocial.engines.served"
