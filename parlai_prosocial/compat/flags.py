"""ParlAI's flags as ``--set`` takes them."""

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
