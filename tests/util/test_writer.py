import subprocess
import sys
import time

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.writer import Writer, made_by_one

HOLD = """
import sys, time
from pathlib import Path
from parlai_prosocial.util.writer import Writer
with Writer(Path(sys.argv[1]), "-mf"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that writes to ``tmp_path / "model"``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "model")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_writer_says_who_is_there(other, tmp_path):
    with pytest.raises(UserError) as caught:
        Writer(tmp_path / "model", "-mf")
    message = str(caught.value)
    assert message.startswith(f"-mf {tmp_path / 'model'}: process {other.pid} on ")
    assert message.endswith("writes there; wait until it has ended, or give another -mf")


def test_a_killed_writer_holds_nothing(other, tmp_path):
    other.kill()
    other.wait()
    with Writer(tmp_path / "model", "-mf"):
        pass


def test_released_twice_and_taken_again(tmp_path):
    writer = Writer(tmp_path / "model", "-mf")
    with pytest.raises(UserError, match="writes there"):
        Writer(tmp_path / "model", "-mf")
    writer.release()
    writer.release()
    with Writer(tmp_path / "model", "-mf"):
        assert (tmp_path / "model.writer").exists()
    assert not (tmp_path / "model.writer").exists()


def test_what_several_need_is_waited_for(other, tmp_path):
    said = []

    def say(line):
        said.append(line)
        other.kill()

    began = time.monotonic()
    with made_by_one(tmp_path / "model", say):
        assert time.monotonic() - began < 30
    assert said[0].startswith(f"waiting for process {other.pid} on ")
    assert said[0].endswith("which is making model")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"-mf .*: cannot be written"):
        Writer(tmp_path / "file" / "model", "-mf")
