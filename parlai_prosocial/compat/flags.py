"""ParlAI's flags: as ``--set`` takes them, its data path, and its names of splits."""

from parlai_prosocial.errors import UserError


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
