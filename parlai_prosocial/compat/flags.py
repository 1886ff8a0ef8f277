"""ParlAI's flags: as ``--set`` takes them, its data path, and its names of splits."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.util.closest import did_you_mean

if TYPE_CHECKING:
    from parlai.core.params import ParlaiParser


def parse_setting(setting: str) -> tuple[str, str]:
    """Split ``key=value`` into a flag's name, with ParlAI's dashes but none before it, and value.

    Raises:
        UserError: there is no ``=``.

    >>> parse_setting("--batch_size=4"), parse_setting("name=a=b")
    (('batch-size', '4'), ('name', 'a=b'))
    """
    key, separator, value = setting.partition("=")
    if not separator:
        raise UserError(f"--set {setting}: write it as key=value")
    return key.strip("-").replace("_", "-"), value


def check_flags(parser: "ParlaiParser", arguments: Sequence[str]) -> dict[str, Any]:
    """ParlAI's options, or one line where ParlAI prints all of its help.

    Args:
        parser: of a script of ParlAI's.
        arguments: what it is given; what comes from ``--set`` among them.

    Raises:
        UsageError: a flag that neither ParlAI nor its task or agent has, or a wrong value.
    """

    def refuse(message: str) -> None:
        _, unrecognized, flags = message.partition("unrecognized arguments: ")
        flag = flags.split(" ")[0].split("=")[0]
        if unrecognized:
            known = [n for n in parser._option_string_actions if n[:2] == "--" and len(n) > 4]
            message = f"parlai knows no {flag} here{did_you_mean(flag, known)}"
        else:  # argument -lr/--learningrate: invalid float value: 'x'
            flag = re.sub(r"^argument (?:-\w+/)?(--[\w-]+).*", r"\1", message)
        raise UsageError(f"--set {flag.strip('-')}: {message}")

    parser.error = refuse
    return parser.parse_args(list(arguments))


def find_datapath(given: str | None) -> str:
    """The given data path, or ParlAI's own."""
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(add_parlai_args=True, add_model_args=False)
    return str(parser.parse_args(["--datapath", given] if given else [])["datapath"])


def ordered(split: str) -> str:
    """ParlAI's name of a split that is read once and in order.

    >>> ordered("train"), ordered("test")
    ('train:evalmode', 'test')
    """
    return "train:evalmode" if split == "train" else split
