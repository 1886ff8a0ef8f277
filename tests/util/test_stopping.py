import signal
import subprocess
import sys
import threading

import pytest

from parlai_prosocial.util.stopping import Signals, Stopped

WORK = """
import sys, time
from parlai_prosocial.util.stopping import Signals
with Signals() as signals:
    print("working", flush=True)
    while True:
        time.sleep(0.01)
        if signals.number and "finish" in sys.argv:
            print("finished at a good point", flush=True)
            break
"""


def worker(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_stops_at_its_own_good_point(number):
    process = worker("finish")
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "finished at a good point\n"
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number):
    process = worker()
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(number)
    assert process.wait(30) == -number


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_is_taken():
    def work():
        with Signals() as signals:
            numbers.append(signals.number)

    numbers = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [0]


def test_no_except_exception_takes_a_stop_for_a_failure():
    assert not issubclass(Stopped, Exception)
    assert (Stopped(signal.SIGINT).status, Stopped(signal.SIGTERM).status) == (130, 143)
