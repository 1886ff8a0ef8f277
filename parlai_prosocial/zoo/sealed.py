"""Whether the weights of a checkpoint are those that were saved, which results must be of."""

from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.checkpoint import Checkpoint, SavedModel
from parlai_prosocial.models.classifier import ClassifierCheckpoint
from parlai_prosocial.zoo.entry import entry_names, find_entry
from parlai_prosocial.zoo.install import installed_folder, verify_installed
from parlai_prosocial.zoo.resolve import Found, Kind, find, named, open_classifier, open_generator

SAVED: dict[Kind, type[SavedModel]] = {
    Kind.CHECKPOINT: Checkpoint,
    Kind.CLASSIFIER: ClassifierCheckpoint,
}


def check_measurable(checkpoint: SavedModel, datapath: str | Path) -> None:
    """Refuse to measure weights that nobody can tell from those that were saved.

    A checkpoint was held against its own hashes when it was opened; an installed model without them
    is held against its entry of the zoo.

    Raises:
        UserError: there are no hashes, since an earlier version wrote it, or an installed file is
            not the entry's.
    """
    if checkpoint.has_hashes:
        return
    path = Path(checkpoint.path)
    if path.parent.name in entry_names():
        entry = find_entry(path.parent.name)
        if path.parent.resolve() == installed_folder(entry, datapath).resolve():
            verify_installed(entry, datapath)
            return
    raise UserError(
        f"{path}: an earlier version wrote it without hashes, so nobody can tell whether its "
        "weights are those that were trained, and results would be of unknown weights; if you "
        f"trust them, `prosocial seal {path}` records their hashes"
    )


def check_found_measurable(found: Found, datapath: str | Path) -> None:
    """:func:`check_measurable` where the name stands for a checkpoint of ours."""
    if found.kind in SAVED:
        with named(found.flag, found.name):
            check_measurable(SAVED[found.kind](str(found.place)), datapath)


def open_saved(name: str, flag: str, datapath: str | None = None) -> SavedModel:
    """A checkpoint of ours, all of whose weights can be read.

    Raises:
        UserError: there is none, or it cannot be opened.
    """
    found = find(name, flag, datapath)
    if found.kind not in SAVED:
        raise found.refused(f"is {found.kind}; give a checkpoint of ours")
    if found.kind is Kind.CLASSIFIER:
        open_classifier(name, flag, datapath)
    else:
        open_generator(name, flag, datapath)
    return SAVED[found.kind](str(found.place))
