"""An entry of the model zoo: one JSON file that says what a model is, and how to get it.

``entries/NAME.json`` is the entry ``zoo:prosocial/NAME``; what is bundled with it (an adapter, its
training log) lies beside it in ``entries/NAME/``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.util.closest import did_you_mean
from parlai_prosocial.util.files import parsed_json, read_bytes

ENTRIES = Path(__file__).parent / "entries"
PREFIX = "zoo:prosocial/"
KINDS = {
    "package": "base, from the package index",
    "hub": "base, from the Hugging Face hub",
    "bundled": "adapter, bundled",
    "build": "build it yourself",
}
BASES = ("package", "hub")


@dataclass(frozen=True)
class ZooFile:
    """A file of a model.

    Attributes:
        name: its path in the model's folder, with ``/``.
        sha256: of its bytes.
        size: in bytes; None where nobody recorded it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class Entry:
    """What the JSON file says.

    Attributes:
        name: of the file, without ``.json``.
        kind: one of :data:`KINDS`.
        what: one line.
        path: what ParlAI's ``-mf`` takes.
        agent: what ParlAI's ``-m`` takes.
        base: of an adapter, and of a model to be built: ``name``, and the ``sha256`` of its
            weights (:func:`~parlai_prosocial.models.backbone.weights_sha256`; None where it is
            not known before it is built).
        source: of a base: where its weights are from.
        data: the corpora it was trained on: ``name``, ``source`` with the revision, ``licence``.
        recipe: the folder or preset in ``parlai_prosocial/recipes``.
        commands: what trains it, in order, run where its ``builds`` should be.
        builds: the model files that the commands leave, the entry's own last.
        training: of each run: ``opt`` (task and settings), ``steps``, ``tokens``, ``seconds``,
            ``command`` (None where the commands are not one a run).
        log: the training log beside the entry.
        metrics: of each file of results: ``source``, the model's ``row``, ``environment``, its
            rows of the ``tables``, and ``samples`` of replies that fail.
        licence: of the weights.
        needs: the oldest versions it runs with, by distribution.
        notes: what else to know before using or building it.
        files: all that is installed, with hashes.
        folder: where what is bundled lies (not in the JSON).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    kind: str
    what: str
    path: str
    agent: str
    licence: str
    folder: Path = Path()
    base: dict[str, Any] | None = None
    source: dict[str, str] | None = None
    data: Sequence[dict[str, str]] = ()
    recipe: str | None = None
    commands: Sequence[str] = ()
    builds: Sequence[str] = ()
    training: Sequence[dict[str, Any]] = ()
    log: str | None = None
    metrics: Sequence[dict[str, Any]] = ()
    needs: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Sequence[ZooFile] = ()

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where they are not all known."""
        sizes = [file.size for file in self.files]
        return sum(s for s in sizes if s) if sizes and None not in sizes else None


def entry_names(entries: Path = ENTRIES) -> list[str]:
    """The names of all entries, sorted."""
    return sorted(file.stem for file in entries.glob("*.json"))


def find_entry(name: str, entries: Path = ENTRIES) -> Entry:
    """The entry of a name, with or without ``zoo:prosocial/`` before and ``/model`` after it.

    Raises:
        UserError: there is none, or its file is broken.
    """
    bare = name.removeprefix(PREFIX).removesuffix("/model")
    if bare not in entry_names(entries):
        raise UsageError(f"{name}: no such model in the zoo; {suggestion(bare, entries)}")
    return read_entry(entries / f"{bare}.json")


def suggestion(name: str, entries: Path = ENTRIES) -> str:
    """What somebody may have meant who asked for an entry that is not there.

    >>> suggestion("smollm2_135m_prosocal")[:60]
    'did you mean zoo:prosocial/smollm2_135m_prosocial? There are'
    """
    known = entry_names(entries)
    hint = did_you_mean(name, known, before="").replace("mean ", f"mean {PREFIX}", 1)
    there_are = f"here are {', '.join(PREFIX + name for name in known)}"
    return f"{hint} T{there_are}" if hint else f"t{there_are}"


def read_entry(file: Path) -> Entry:
    """Read an entry; raises :class:`UserError` where the file is no right one."""
    mend = "reinstall parlai-prosocial"
    entry = parsed_json(read_bytes(file, mend), Entry, f"{file}: not a zoo entry", mend)
    try:
        if entry.name != file.stem or entry.kind not in KINDS or entry.folder != Path():
            raise ValueError(f"its name, kind or folder is wrong: {entry.name!r}, {entry.kind!r}")
        for listed in entry.files:
            _checked_file(listed)
    except ValueError as error:
        raise UserError(f"{file}: not a zoo entry: {error}; {mend}") from None
    return replace(entry, folder=file.with_suffix(""))


def _checked_file(file: ZooFile) -> None:
    parts = file.name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in file.name:
        raise ValueError(f"{file.name!r} is no path within the model's folder")
