"""A finished run added to the zoo: its bundle, and the entry that says what it is."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from parlai_prosocial.cards.bundle import (
    LIMIT,
    bundled_files,
    change_by_rounding,
    open_checkpoint,
    write_bundle,
)
from parlai_prosocial.cards.card import without_folders
from parlai_prosocial.cards.measured import read_results
from parlai_prosocial.cards.provenance import TrainedStep, corpora_of, training_chain
from parlai_prosocial.compat.pickles import read_options
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import ClassifierCheckpoint
from parlai_prosocial.training.recipe import STEPS
from parlai_prosocial.util.files import read_json, write_aside, writing
from parlai_prosocial.zoo.entry import PREFIX, Entry, read_entry
from parlai_prosocial.zoo.resolve import find

LOG = "training.jsonl"
MOST_CHANGE = 0.05
"""A score that bfloat16 changes by more, in nats a token or probability, is no rounding."""

OF_THIS_MACHINE = ("dict_file", "init_model", "dict_initpath", "precision", "gpu", "no_cuda")
"""Options of an agent that do not go with the model."""

LOGGED = (
    *("loss", "ppl", "accuracy", "token_acc", "contrast_loss", "contrast_acc", "margin"),
    *("logp_pos", "logp_neg", "lr", "gnorm", "useful_tokens", "useful_tps"),
)
NEEDED = ("transformers", "peft", "safetensors")


def add_entry(
    name: str,
    model: str,
    what: str,
    results: Sequence[tuple[Path, str]],
    commands: Sequence[str],
    entries: Path,
    datapath: str,
) -> tuple[Entry, float]:
    """Bundle a finished run as ``entries/NAME`` and describe it in ``entries/NAME.json``.

    Args:
        name: of the entry.
        model: the run's ``-mf``.
        what: one line.
        results: files as :func:`~parlai_prosocial.cards.measured.read_results` takes them, each
            with the model's row (or column) in its tables.
        commands: what trained it; empty where ``finished.json`` of each step says so.
        entries: folder of entries.
        datapath: ParlAI's, for the base.

    Returns:
        The entry, and :func:`~parlai_prosocial.cards.bundle.change_by_rounding`.

    Raises:
        UserError: there is such an entry, something of the above is missing, or it is too big.
    """
    file = entries / f"{name}.json"
    folder = entries / name
    if file.exists() or folder.exists():
        raise UserError(f"{name}: is in {entries} already; delete {file} and {folder} first")
    model = str(find(model, "--model", datapath).place)
    run = open_checkpoint(model)
    opt = read_options(f"{model}.opt")
    chain = whole_chain(model)
    commands = list(commands)
    if not commands:
        commands = [
            public_command(_recorded(step), name, number, len(chain))
            for number, step in enumerate(chain, 1)
        ]
        if isinstance(run, ClassifierCheckpoint) and run.temperature != 1:
            commands.append(f"prosocial calibrate -mf {_word_after(commands[-1], '-mf')}")
    trainings = [command for command in commands if command.startswith("parlai train_model")]
    content: dict[str, Any] = {
        "name": name,
        "kind": "bundled",
        "what": what,
        "path": f"{PREFIX}{name}/model",
        "agent": opt["model"],
        "base": {"name": run.info["backbone"], "sha256": run.info["base_sha256"]},
        "data": [
            {"name": c.name, "source": c.source, "licence": c.licence} for c in corpora_of(chain)
        ],
        "recipe": recipe_of(chain[-1].opt),
        "commands": commands,
        "builds": list(dict.fromkeys(w for c in commands if (w := _word_after(c, "-mf")))),
        "training": [
            {
                "opt": {"task": step.opt["task"], **step.settings},
                "steps": step.steps,
                "tokens": step.tokens,
                "seconds": step.seconds,
                "command": trainings[i] if len(trainings) == len(chain) else None,
            }
            for i, step in enumerate(chain)
        ],
        "log": LOG,
        "metrics": [metrics_of(file, row) for file, row in results],
        "licence": "Apache-2.0",  # of both bases that an adapter is bundled over
        "needs": oldest_versions(),
    }
    part = entries / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    with writing(folder, part):
        write_bundle(run, part, public_opt(opt))
        content["files"] = [
            {key: value for key, value in asdict(f).items() if value is not None}
            for f in bundled_files(part)
        ]
        write_aside(part / LOG, training_log(model, chain))
        _check_size(part, entries)
        change = change_by_rounding(model, str(part / "model"), datapath)
        if change > MOST_CHANGE:
            raise UserError(f"{model}: bfloat16 changes its scores by {change:.3f}, too much")
        os.replace(part, folder)
    write_aside(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return read_entry(file), change


def whole_chain(model: str) -> list[TrainedStep]:
    """All runs behind a model; raises :class:`UserError` where one of them is not to be found."""
    chain = training_chain(model)
    if not chain:
        raise UserError(f"{model}.opt: names no task; give the -mf of a finished run")
    before = chain[0].opt.get("init_model")
    if before:
        raise UserError(
            f"--init-model {before} of a run behind {model} is not there; run this in the folder "
            "where it was trained"
        )
    return chain


def public_command(command: str, name: str, number: int, steps: int) -> str:
    """A recorded ``parlai train_model`` as others can run it.

    Model files go to ``runs/zoo/NAME``, presets are named by their path in the package, and the
    data path is left to the user's own.

    Raises:
        UserError: it is no ``parlai train_model`` with a value for each flag.

    >>> public_command("parlai train_model -o /a/parlai_prosocial/recipes/demo/step2.opt -mf "
    ...     "out/step2/model --init-model out/step1/model --datapath /d --seed 0", "x", 2, 2)
    ... # doctest: +NORMALIZE_WHITESPACE
    'parlai train_model -o parlai_prosocial/recipes/demo/step2.opt -mf runs/zoo/x/step2/model
    --init-model runs/zoo/x/step1/model --seed 0'
    """
    folder = f"runs/zoo/{name}"
    places = [
        f"{folder}/step{i}/model" if steps > 1 else f"{folder}/model" for i in range(1, steps + 1)
    ]
    program, script, *arguments = shlex.split(command)
    if (program, script) != ("parlai", "train_model") or len(arguments) % 2:
        raise UserError(
            f"`{command}`: is not of `prosocial train`; give the commands with --command, in order"
        )
    words = [program, script]
    for flag, value in zip(arguments[::2], arguments[1::2], strict=True):
        if flag == "--datapath":
            continue
        if flag == "-o":
            value = _preset(value)
        elif flag == "-mf":
            value = places[number - 1]
        elif flag == "--init-model":
            value = places[number - 2]
        elif Path(value).is_absolute():
            value = Path(value).name
        words += [flag, value]
    return shlex.join(words)


def recipe_of(opt: Mapping[str, Any]) -> str | None:
    """The recipe of a run: the folder of its steps, or a preset.

    >>> recipe_of({"init_opt": "/a/parlai_prosocial/recipes/demo/step2.opt"})
    'demo'
    >>> recipe_of({"init_opt": "parlai_prosocial/recipes/classifier/mining.opt"})
    'classifier/mining'
    """
    if not opt.get("init_opt"):
        return None
    preset = Path(opt["init_opt"])
    folder = preset.parent.name
    return folder if preset.stem in STEPS else f"{folder}/{preset.stem}"


def metrics_of(results: Path, row: str) -> dict[str, Any]:
    """A model's row of each table that has it, or its column beside the first one.

    Raises:
        UserError: no table has it.
    """
    content = read_results(results, row)
    tables = [own for table in content["tables"] if (own := _own_part(table, row))["rows"]]
    if not tables:
        known = {str(next(iter(r.values()))) for t in content["tables"] for r in t["rows"]}
        raise UserError(
            f"--results {results}: no row {row!r}; there are {'; '.join(sorted(known))}"
        )
    environment = content.get("environment", {})
    if "command" in environment:
        environment = environment | {"command": without_folders(environment["command"])}
    return {
        "source": results.name if results.is_absolute() else results.as_posix(),
        "row": row,
        "environment": environment,
        "tables": tables,
        "samples": content["samples"],
    }


def _own_part(table: dict[str, Any], name: str) -> dict[str, Any]:
    """A table less what is not of the row or column ``name``; without rows where it has neither."""
    kept = [row for row in table["rows"] if name in row.values()]
    if name not in table["columns"]:
        return table | {"rows": kept}
    columns = [next(iter(table["columns"])), name]
    return table | {
        "columns": {key: table["columns"][key] for key in columns},
        "rows": [{key: row.get(key) for key in columns} for row in table["rows"]],
    }


def training_log(model: str, chain: Sequence[TrainedStep]) -> str:
    """What ParlAI logged of each run of a chain, a line a report, rounded to five digits."""
    files = [Path(model)]
    for step in reversed(chain[1:]):
        files.insert(0, Path(step.opt["init_model"]))
    lines = []
    for number, file in enumerate(files, 1):
        stats_file = Path(f"{file}.trainstats")
        if not stats_file.is_file():
            raise UserError(f"{stats_file} is missing: it is the training log of an entry")
        stats = read_json(stats_file, dict[str, list[dict[str, Any]] | Any])
        for kind in ("train", "valid"):
            for report in stats[f"{kind}_reports"]:
                steps = report.get("train_steps", report.get("total_train_updates"))
                kept = {key: float(f"{report[key]:.5g}") for key in LOGGED if key in report}
                lines.append(json.dumps({"run": number, "part": kind, "steps": steps, **kept}))
    return "\n".join(lines) + "\n"


def public_opt(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that belong to its agent and not to its data, schedule or machine."""
    from parlai.core.loader import load_agent_module
    from parlai.core.opt import Opt
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(add_parlai_args=False, add_model_args=False)
    load_agent_module(opt["model"]).add_cmdline_args(parser, Opt({}))
    names = {action.dest for action in parser._actions} - set(OF_THIS_MACHINE)
    kept = {key: value for key, value in opt.items() if key in names and value is not None}
    return {"model": opt["model"], **kept, "skip_generation": False}


def oldest_versions() -> dict[str, str]:
    """What an adapter needs: this package, and the others at the oldest that it runs with."""
    needs = {"parlai-prosocial": metadata.version("parlai-prosocial")}
    for requirement in map(Requirement, metadata.requires("parlai-prosocial") or []):
        if requirement.name in NEEDED and requirement.marker is None:
            needs[requirement.name] = next(iter(requirement.specifier)).version
    return needs


def _check_size(part: Path, entries: Path) -> None:
    size = sum(f.stat().st_size for f in part.rglob("*") if f.is_file())
    total = sum(f.stat().st_size for f in entries.rglob("*") if f.is_file())
    if total > LIMIT:
        raise UserError(
            f"{size / 1e6:.1f} MB more would make {total / 1e6:.1f} MB of bundled models, above "
            f"{LIMIT / 1e6:.0f} MB: train with a smaller --lora-rank"
        )


def _recorded(step: TrainedStep) -> str:
    if step.command is None:
        raise UserError(
            "no finished.json beside the run says how it was trained; give the commands with "
            "--command, in order"
        )
    return step.command


def _preset(path: str) -> str:
    at = path.find("parlai_prosocial/recipes/")
    if at < 0:
        raise UserError(f"-o {path}: is no recipe of the package, so others could not train it")
    return path[at:]


def _word_after(command: str, flag: str) -> str | None:
    words = shlex.split(command)
    return words[words.index(flag) + 1] if flag in words else None
