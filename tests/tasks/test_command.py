"""The stock ``parlai`` command shows a user's mistake as one line."""

import subprocess

import pytest


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-t", "mic"], "error: MIC stands behind a data-use agreement"),
        (
            ["-t", "prosocial:Own", "--prosocial-data", "latin1.csv"],
            "latin1.csv, line 2: not UTF-8; convert the file",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, flags, message):
    (tmp_path / "latin1.csv").write_bytes("context,response\ncaf\xe9,x\n".encode("latin-1"))
    done = subprocess.run(
        ["parlai", "display_data", *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
