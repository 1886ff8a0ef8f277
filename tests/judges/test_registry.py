"""One table of judges: what a flag takes, what help says of it, and what else is refused."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.mine import mine
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.registry import KINDS, judges_help, open_judge, spelled


def test_help_has_a_line_for_each_kind():
    help_page = CliRunner().invoke(mine, ["--help"]).output
    for name, kind in KINDS.items():
        assert [line for line in help_page.splitlines() if line.split()[:1] == [spelled(name)]]
        assert kind.about in judges_help()


@pytest.mark.parametrize("name", KINDS)
def test_a_slip_is_recognised(name, tmp_path):
    place = ":x" if KINDS[name].place else ""
    for wrong in (name.upper() + place, name[:-1] + "_" + place):
        with pytest.raises(UserError, match=f"did you mean {spelled(name)}"):
            open_judge(wrong, str(tmp_path), bf16=False)


def test_the_table_loads_nothing_heavy():
    code = (
        "import parlai_prosocial.cli.mine, sys; print({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
