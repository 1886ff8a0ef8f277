import os
import subprocess
import sys
from importlib import import_module

import pytest

from parlai_prosocial.compat import patches
from parlai_prosocial.errors import UsageError

MISTYPED = [
    (["-t", "prosocial:Contrastve"], "--task prosocial:Contrastve:", "prosocial:Contrastive"),
    (["-t", "mic,diasafty"], "--task diasafty:", "diasafety"),
    (["-t", "mic,blended_skil_talk"], "--task blended_skil_talk:", "blended_skill_talk"),
    (["-t", "mic", "-m", "prosocail"], "--model prosocail:", "prosocial"),
    (["-t", "mic", "-m", "prosocial/clasifier"], "clasifier:", "prosocial/classifier"),
    (["-t", "blended_skill_talk", "-m", "prosocail"], "--model prosocail:", "prosocial"),
    (["-t", "blended_skil_talk"], "--task blended_skil_talk:", "blended_skill_talk"),
]


@pytest.mark.parametrize("arguments, begin, meant", MISTYPED, ids=lambda value: str(value)[-20:])
def test_a_mistyped_name_is_one_line_with_what_was_meant(arguments, begin, meant, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "parlai", "train_model", *arguments, "-mf", str(tmp_path / "m")],
        env={**os.environ, "PARLAI_DATAPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert begin in last and last.endswith(f"did you mean {meant}?")
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_a_missing_model_file_is_named_with_what_lies_beside(tmp_path):
    from parlai.core import agents

    patches.apply()
    (tmp_path / "model").write_text("")
    opt = {"model_file": str(tmp_path / "modle"), "datapath": str(tmp_path)}
    with pytest.raises(UsageError, match=r"^--model-file .*modle: .*did you mean model\?$"):
        agents.create_agent(opt, requireModelExists=True)


def test_what_a_known_task_or_agent_lacks_is_its_own_error(monkeypatch):
    from parlai.core import loader

    patches.apply()
    monkeypatch.setitem(sys.modules, "parlai.tasks.babi.build", None)
    monkeypatch.delitem(sys.modules, "parlai.tasks.babi.agents", raising=False)
    with pytest.raises(ImportError, match="babi"):
        loader.load_teacher_module("babi")
    with pytest.raises(AttributeError):
        _ = import_module("parlai.tasks.mic.agents").no_such_thing
