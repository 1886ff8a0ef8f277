"""``parlai vacuum`` on a model of ours, whose file is a small manifest and no pickle."""

import functools
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

BACKUP = ".unvacuumed"


def mend(vacuum: ModuleType) -> None:
    """Our manifests are told from ParlAI's files, which take ParlAI's way."""
    original = vacuum.Vacuum.run

    @functools.wraps(original)
    def run(self: Any) -> None:
        # Here and not at import: torch and transformers take a second, and `prosocial setup`
        # imports this module where there is no ParlAI yet.
        from parlai.utils import logging

        from parlai_prosocial.models.checkpoint import TRAINING_FILE, format_of, read_manifest

        path = self.opt["path"]
        kind = format_of(Path(path)) if path else None
        if kind is None:
            original(self)
            return
        file = Path(path).parent / read_manifest(path, kind)["weights"] / TRAINING_FILE
        if not file.exists():
            logging.info(f"{path}: has no training state")
        elif self.opt["no_backup"]:
            file.unlink()
        else:
            backup = Path(path + ".training" + BACKUP)
            logging.info(f"Backing up the training state of {path} to {backup}")
            shutil.move(file, backup)

    vacuum.Vacuum.run = run
