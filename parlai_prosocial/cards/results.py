"""Whose results are these? What a card takes over was measured on the very weights it describes."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parlai_prosocial.cards.measured import ROW_KEYS, read_results
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.models.backbone import weights_sha256

SHOWN = 16
"""Digits of a hash that results name a model by."""


def measured_on(file: Path, row: str | None, model: str, weights: Path) -> dict[str, Any]:
    """What ``file`` says of a model; see :func:`~parlai_prosocial.cards.measured.read_results`.

    Args:
        file: of results.
        row: the model's name in them; where None the row of its weights, or else ``model``.
        model: as it was named to the command.
        weights: the folder of the model's own weights.

    Raises:
        UserError: there is no such row, it is another model's, or the file does not say whose.
    """
    content = read_results(file, row or model)
    own = weights_sha256(weights)[:SHOWN]
    hashes: dict[str, set[str]] = {}
    for name, sha256 in _hashes(content):
        hashes.setdefault(name, set()).add(sha256)
    mine = [name for name, found in hashes.items() if own in found]
    if row is None and mine:
        content = read_results(file, mine[0])
    name = content["row"]
    known = sorted({str(v) for t in content["tables"] for v in _names(t)})
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise UsageError(f"--row {name}: no row or column of {file}{hint}")
    if name not in hashes:
        raise UserError(
            f"--results {file}: does not say which weights {name} has, so nobody can tell whether "
            "it is this model; measure it with prosocial evaluate and give its summary.json"
        )
    if own not in hashes[name]:
        mend = f"; its own row is {mine[0]}" if mine else "; measure this model itself"
        raise UserError(
            f"--results {file}: {name} is another model (weights {', '.join(sorted(hashes[name]))},"
            f" and these are {own}){mend}"
        )
    return content


def own_weights(model_file: Path) -> Path:
    """The folder of a model's own weights: an adapter's, where it is one."""
    from parlai_prosocial.models.checkpoint import CLASSIFIER_FORMAT, Checkpoint, format_of
    from parlai_prosocial.models.classifier import ClassifierCheckpoint

    if model_file.is_dir():
        return model_file
    if format_of(model_file) == CLASSIFIER_FORMAT:
        return ClassifierCheckpoint(str(model_file)).folder
    return Checkpoint(str(model_file)).folder


def _hashes(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Row or column -> digits of the hash of its weights, as each command's files have them."""
    for model in content.get("models", ()):
        if "engine" in model:  # evaluate: WHERE@HASH; an address has none
            yield model["name"], model["engine"].rpartition("@")[2]
        elif "weights" in model:  # bench_classifier.py
            yield model["arm"], model["weights"]
    results = content.get("results")
    for rows in results.values() if isinstance(results, dict) else ():  # compare, ablate: by seed
        for name, row in rows.items():
            if isinstance(row, dict) and "weights" in row:
                yield name, row["weights"]


def _names(table: Mapping[str, Any]) -> Iterator[str]:
    """The rows that are models', or where there are none the columns."""
    for key in ROW_KEYS:
        if key in table["columns"]:
            yield from (row[key] for row in table["rows"])
            return
    yield from table["columns"]
