"""ParlAI's regression test of every teacher: its first messages, and its counts.

Fixtures are written anew with ``pytest tests/tasks/test_teachers.py --force-regen``. DiaSafety is
tested on rows that we wrote ourselves, so that no abusive text stands in them.
"""

from pathlib import Path

import pytest
from parlai.utils.testing import AutoTeacherTest


class TeacherTest(AutoTeacherTest):
    def _safe(self, obj):
        safe = super()._safe(obj)
        # The last digit of a logarithm differs between machines.
        if isinstance(safe, dict) and "negative_weights" in safe:
            safe["negative_weights"] = [round(weight, 6) for weight in safe["negative_weights"]]
        return safe


class TestProsocialDefault(TeacherTest):
    task = "prosocial:prosocial_sample=true"


class TestProsocialResponse(TeacherTest):
    task = "prosocial:Response:prosocial_sample=true"


class TestProsocialRot(TeacherTest):
    task = "prosocial:Rot:prosocial_sample=true"


class TestProsocialSafety(TeacherTest):
    task = "prosocial:Safety:prosocial_sample=true"


class TestProsocialBinarySafety(TeacherTest):
    task = "prosocial:BinarySafety:prosocial_sample=true"


class TestProsocialCanary(TeacherTest):
    task = "prosocial:Canary:prosocial_sample=true"


class TestProsocialRotResponse(TeacherTest):
    task = "prosocial:RotResponse:prosocial_sample=true"


class TestProsocialContrastive(TeacherTest):
    task = "prosocial:Contrastive:prosocial_sample=true"


class TestMicDefault(TeacherTest):
    task = "mic:prosocial_sample=true"


class TestMicAnswer(TeacherTest):
    task = "mic:Answer:prosocial_sample=true"


class TestMicRot(TeacherTest):
    task = "mic:Rot:prosocial_sample=true"


class TestMicAlignment(TeacherTest):
    task = "mic:Alignment:prosocial_sample=true"


class TestMicSeverity(TeacherTest):
    task = "mic:Severity:prosocial_sample=true"


class TestMicConsensus(TeacherTest):
    task = "mic:Consensus:prosocial_sample=true"


class TestMicFoundations(TeacherTest):
    task = "mic:Foundations:prosocial_sample=true"


class TestMicContrastive(TeacherTest):
    task = "mic:Contrastive:prosocial_sample=true"


class TestSelfDialogue(TeacherTest):
    task = "self_dialogue"


class FromThisFolder(TeacherTest):
    """A file named relative to the fixtures, so that no machine's path stands in their names."""

    @pytest.fixture(autouse=True)
    def _in_folder(self, monkeypatch):
        monkeypatch.chdir(Path(__file__).parent / "test_teachers")


TINY = "diasafety_data=diasafety_tiny.jsonl:diasafety_official_split=true"


class TestDiaSafetyDefault(FromThisFolder):
    task = f"diasafety:{TINY}"


class TestDiaSafetyContrastive(FromThisFolder):
    task = f"diasafety:Contrastive:{TINY}"


class TestDiaSafetyResponse(FromThisFolder):
    task = f"diasafety:Response:{TINY}"


class TestDiaSafetySafety(FromThisFolder):
    task = f"diasafety:Safety:{TINY}"


class TestProsocialOwn(FromThisFolder):
    task = "prosocial:Own:prosocial_data=own_tiny.jsonl"
