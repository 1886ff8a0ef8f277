"""A process that answers: what is asked comes back in order, and its end is an error, no hang."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from parlai_prosocial.engines import child as module
from parlai_prosocial.engines.child import Child
from parlai_prosocial.errors import UserError

ANSWERING = """
import json, os, signal, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    print("noted", file=sys.stderr, flush=True)
    {action}
"""
ECHO = 'print(json.dumps({"said": asked["text"]}), flush=True)'


def started(action=ECHO):
    code = ANSWERING.replace("{action}", action)
    return Child([sys.executable, "-c", code], "the fake", "start it again")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid):
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_object_is_answered_by_its_own():
    child = started()
    for text in ("one", "two\nlines", "größer \u2028 \U0001f600", "x" * 200_000):
        assert child.ask({"text": text}) == {"said": text}
    child.close()
    child.close()
    assert not is_running(child.pid)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGFPE)", r"its process ended of SIGFPE \(noted\)"),
        ("sys.exit('no room\\n')", r"its process ended with status 1 \(no room\)"),
        ("sys.exit(0)", r"its process ended with status 0 \(noted\)"),
        ("print('{\"said\": ', end='', flush=True); sys.exit(3)", "ended with status 3"),
        ("print('hello', flush=True)", "answered with what is no JSON object"),
        ("print('[1]', flush=True)", "answered with what is no JSON object"),
        ("print(json.dumps({'error': 'too long'}), flush=True)", "too long"),
    ],
)
def test_what_goes_wrong_is_one_line(action, told):
    child = started(action)
    with pytest.raises(UserError, match=f"^the fake: .*{told}.*; start it again$"):
        child.ask({"text": "one"})


def test_one_that_has_ended_stays_ended():
    child = started("sys.exit(2)")
    for _ in range(3):
        with pytest.raises(UserError, match="its process ended with status 2"):
            child.ask({"text": "one"})


def test_one_that_only_closes_its_output_does_not_keep_us(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_TO_END", 0.2)
    child = started("os.close(1); time.sleep(600)")
    with pytest.raises(UserError, match="its process ended of SIGKILL"):
        child.ask({"text": "one"})


def test_it_ends_with_its_object():
    child = started()
    pid = child.pid
    child.ask({"text": "one"})
    del child
    gc.collect()
    assert not is_running(pid)


def test_it_ends_with_the_process_that_started_it():
    echo = ANSWERING.replace("{action}", ECHO)
    code = f"""
import os, signal, sys
from parlai_prosocial.engines.child import Child
child = Child([sys.executable, "-c", {echo!r}], "fake", "")
child.ask({{"text": "one"}})
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == -signal.SIGKILL, found.stderr
    wait_until_gone(int(found.stdout))
