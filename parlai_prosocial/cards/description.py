"""An entry of the zoo as text, for people to read in a terminal."""

from typing import Any

from parlai_prosocial.evaluation.results.tables import terminal_table
from parlai_prosocial.zoo.entry import KINDS, PREFIX, Entry, ZooFile


def description(entry: Entry) -> str:
    """An entry as text; nothing of it is left out."""
    lines = [f"{PREFIX}{entry.name}: {entry.what}", ""]
    facts: dict[str, Any] = {
        "kind": KINDS[entry.kind],
        "agent": f"-m {entry.agent}",
        "base": _one_line(entry.base),
        "source": _one_line(entry.source),
        "licence": entry.licence,
        "needs": ", ".join(f"{name}>={oldest}" for name, oldest in entry.needs.items()),
        "size": entry.size and megabytes(entry.size),
        "recipe": entry.recipe,
        "log": entry.log and str(entry.folder / entry.log),
    }
    lines += [f"{key:<8} {value}" for key, value in facts.items() if value]
    sections: dict[str, list[str]] = {
        "Notes": list(entry.notes),
        "Data": [f"{d['name']}: {d['source']}; licence: {d['licence']}" for d in entry.data],
        "Training": list(entry.commands),
        "It leaves": list(entry.builds),
        "Runs": [_one_line(run | {"command": None}) for run in entry.training],
        "Files": [_file_line(f) for f in entry.files],
    }
    for title, texts in sections.items():
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    for measured in entry.metrics:
        lines += ["", f"Measured: {measured['source']}, row {measured['row']!r}"]
        for table in measured["tables"]:
            lines += ["", terminal_table(table)]
        lines += ["", f"Measured with: {_one_line(measured['environment'])}"]
        for sample in measured["samples"]:
            lines += ["", *(f"  {key}: {text}" for key, text in sample.items())]
    return "\n".join(lines)


def _file_line(file: ZooFile) -> str:
    shown = "size not recorded" if file.size is None else f"{file.size:,} bytes"
    return f"{file.name}  {shown}  sha256 {file.sha256}"


def _one_line(facts: dict[str, Any] | None) -> str:
    shown = {k: _one_line(v) if isinstance(v, dict) else v for k, v in (facts or {}).items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f} MB"
