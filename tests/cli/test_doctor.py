from pathlib import Path

from click.testing import CliRunner

from parlai_prosocial.cli import doctor as module
from parlai_prosocial.cli.doctor import doctor
from parlai_prosocial.compat.installation import Finding


def report(monkeypatch, **sections) -> tuple[int, str]:
    """Run the command with the named checks replaced by lists of findings, the others empty."""
    for name in ("versions", "packages", "device", "names", "clashes"):
        findings = sections.get(name, [])
        monkeypatch.setattr(module, name, lambda findings=findings: iter(findings))
    for name in ("base_model", "safety_tasks", "safety_bench"):
        monkeypatch.setattr(module, name, lambda datapath: iter([]))
    result = CliRunner().invoke(doctor)
    return result.exit_code, result.output


def test_status_1_and_the_mend_where_something_is_broken(monkeypatch):
    status, shown = report(monkeypatch, packages=[Finding("broken", "torch is missing", "do this")])
    assert status == 1 and shown.startswith("Broken: 1. ")
    assert "broken  torch is missing\n          mend: do this" in shown


def test_status_0_where_there_are_notes_only(monkeypatch):
    status, shown = report(monkeypatch, clashes=[Finding("note", "presets are missing")])
    assert status == 0 and shown.startswith("Everything that training and chatting need is there.")
    assert "note    presets are missing" in shown


def test_resolves_and_exits_0_here(tmp_path):
    """The environment that runs this is one in which everything works."""
    result = CliRunner().invoke(doctor, ["--datapath", str(tmp_path)])
    for name in ("-m prosocial", "-t mic", "-t diasafety", "zoo:prosocial/smollm2_135m"):
        assert f"ok      {name}\n" in result.output
    assert f"smollm2_135m will be converted into {tmp_path}" in result.output
    assert f"note    saferdialogues: not in {tmp_path / 'saferdialogues'}\n" in result.output
    assert "lacks the word list\n" in result.output
    assert result.exit_code == 0


def test_converted_base_is_found(tmp_path):
    folder = tmp_path / "models" / "prosocial" / "smollm2_135m"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "prosocial_base.json").write_text("{}")
    (finding,) = module.base_model(Path(tmp_path))
    assert finding == Finding("ok", f"smollm2_135m is in {folder}")


def test_safety_bench_names_what_it_lacks(tmp_path, parlai_data, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])
    findings = list(module.safety_bench(parlai_data))
    assert {finding.level for finding in findings} <= {"note", "ok"}
    mends = {finding.text: finding.mend for finding in findings}
    assert "--tests generate lacks the word list" not in mends
    assert mends["--tests response lacks nltk's vader_lexicon"].endswith("vader_lexicon")
    classifier = mends["--tests response lacks zoo:bot_adversarial_dialogue/multi_turn/model"]
    assert "models_v1.tar.gz into" in classifier
