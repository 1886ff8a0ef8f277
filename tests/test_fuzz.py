"""Half a minute of `make fuzz`: mutated files are read, or refused by a UserError of one line."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "scripts" / "fuzz.py"
PLANTED = """
import sys
sys.path.insert(0, sys.argv[1])
import fuzz
def read(file):
    if b"true" in file.read_bytes():
        raise KeyError("x")
fuzz.readers = lambda: {"planted": fuzz.Reader([b'{"a": false, "b": 1}'], read, "x.json")}
sys.argv[1:] = ["--inputs", "500", "--keep", sys.argv[2]]
fuzz.main()
"""


def test_no_reader_stumbles(tmp_path):
    command = [sys.executable, FUZZ, "--seconds", "20", "--keep", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *readers, last = done.stdout.strip().splitlines()[2:]
    assert len(readers) >= 25
    assert int(last.split()[1].replace(",", "")) > 500


def test_a_reader_that_stumbles_is_found(tmp_path):
    command = [sys.executable, "-c", PLANTED, FUZZ.parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "x KeyError at <string>:" in done.stdout
    [kept] = tmp_path.iterdir()
    assert b"true" in kept.read_bytes()
