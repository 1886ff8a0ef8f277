"""Where an experiment runs and what it leaves: the device, the base, and the record of rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.training.recipe import StepResult
from parlai_prosocial.util.environment import precision_name
from parlai_prosocial.util.files import json_text, read_json, write_aside
from parlai_prosocial.util.journal import SETTINGS, differing_keys


@dataclass
class Machine:
    """Where models are trained and measured.

    Attributes:
        datapath: ParlAI's data path.
        base_folder: the untouched base.
        device: a torch device.
        bf16: whether to compute in bfloat16.
    """

    datapath: str
    base_folder: Path
    device: Any
    bf16: bool

    @property
    def settings(self) -> list[str]:
        """Of training, so that it agrees with what is measured here."""
        return [f"datapath={self.datapath}", f"precision={precision_name(self.bf16)}"]


def find_machine(base: str | None, datapath: str | None, out: Path) -> Machine:
    """Resolve the base and look at the device.

    Args:
        base: the backbone, None for the default.
        datapath: ParlAI's own where None.
        out: the experiment's folder; one that was begun goes on in its precision.

    Raises:
        UserError: the base is missing.
    """
    from parlai_prosocial.agents.options import DEFAULT_BACKBONE
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.models.precision import best_device, computes_in_bf16
    from parlai_prosocial.zoo.resolve import find_base

    datapath = find_datapath(datapath)
    base_folder = find_base(base or DEFAULT_BACKBONE, "--base", datapath)
    return Machine(datapath, base_folder, best_device(), computes_in_bf16(out))


def keep_precision(out: Path, machine: Machine) -> None:
    """Record for :func:`find_machine` what an experiment computes in, where it begins."""
    if not (out / SETTINGS).exists():
        write_aside(out / SETTINGS, json_text({"precision": precision_name(machine.bf16)}))


def read_plan(recipe: Path) -> dict[str, Any]:
    """A recipe's ``compare.json``: what its models are measured on."""
    file = recipe / "compare.json"
    if not file.is_file():
        raise UserError(f"--recipe {recipe.name}: no {file}, so it says nothing to compare on")
    return read_json(file, mend="mend the recipe")


def load_model(machine: Machine, steps: Sequence[StepResult]) -> tuple[Any, str]:
    """The backbone after these steps, the base where there are none; and its weights' hash."""
    from parlai_prosocial.models.backbone import weights_sha256
    from parlai_prosocial.zoo.resolve import open_generator

    name = steps[-1].model_file if steps else str(machine.base_folder)
    opened = open_generator(name, "--base", machine.datapath, machine.bf16)
    return opened.backbone.to(machine.device), weights_sha256(opened.folder)[:16]


def saved_rows(file: Path, measured_on: dict[str, Any]) -> dict[str, Any]:
    """What was measured before and saved in ``file``, or an empty record to save there.

    Returns:
        ``measured_on``, and the dicts ``results`` and ``demo_replies`` by row.

    Raises:
        UserError: it was measured on something else.
    """
    measured_on = json.loads(json.dumps(measured_on))
    if not file.exists():
        return {"measured_on": measured_on, "results": {}, "demo_replies": {}}
    content = read_json(file, dict[str, dict[str, Any]], "delete it")
    if not {"measured_on", "results", "demo_replies"} <= content.keys():
        raise UserError(f"{file}: is damaged, {', '.join(content)} is not all of it; delete it")
    if differing := differing_keys(content["measured_on"], measured_on):
        raise UserError(
            f"{file}: measured by another compare.json, with other flags or by an earlier version "
            f"({', '.join(differing)} differ); give another --out, or delete it"
        )
    return content


def write_results(
    out: Path, tables: Sequence[dict[str, Any]], results: Any, facts: dict[str, Any]
) -> None:
    """Write ``results.json`` and ``results.md`` into ``out``."""
    from parlai_prosocial.evaluation.results.tables import markdown_table

    summary = {"environment": facts, "tables": list(tables), "results": results}
    write_aside(out / "results.json", json.dumps(summary, indent=1))
    footer = ", ".join(f"{key} {value}" for key, value in facts.items())
    markdown = "\n\n".join([*(markdown_table(t) for t in tables), f"Measured with: {footer}"])
    write_aside(out / "results.md", markdown + "\n")
