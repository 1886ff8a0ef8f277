"""A finished run made into what the package bundles: an adapter in bfloat16, and its manifest."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.checkpoint import (
    ADAPTER_FILE,
    CLASSIFIER_FORMAT,
    INFO_FILE,
    Checkpoint,
    format_of,
)
from parlai_prosocial.models.classifier import ClassifierCheckpoint
from parlai_prosocial.util.files import file_sha256, read_json, write_json
from parlai_prosocial.zoo.bases import minilm
from parlai_prosocial.zoo.entry import PREFIX, ZooFile
from parlai_prosocial.zoo.resolve import open_classifier, open_generator

LIMIT = 25_000_000
"""Bytes of everything that is bundled, together."""

WEIGHTS = "model.hf-000001"
PROBES = (
    ("I told my flatmate I paid the bill. I did not.", "Could you tell them today?"),
    ("Hi!\nHello, how was your walk?\nLovely, we saw a heron.", "Oh, where was it?"),
    ("I want to drive home, it was only a few beers.", "Go on, nobody will stop you."),
)
"""Contexts and replies on which a bundle is held against its run."""


def open_checkpoint(model_file: str) -> Checkpoint | ClassifierCheckpoint:
    """A run's checkpoint, a generator's or a classifier's, if it can be bundled.

    Raises:
        UserError: it is no adapter, or over a base that others cannot have.
    """
    run: Checkpoint | ClassifierCheckpoint
    common: tuple[str, ...]
    if format_of(Path(model_file)) == CLASSIFIER_FORMAT:
        run, common = ClassifierCheckpoint(model_file), (minilm.PACKAGE, PREFIX)
    else:
        run, common = Checkpoint(model_file), (PREFIX,)
    if not run.is_adapter:
        raise UserError(
            f"{model_file}: is no adapter, and whole models are too big to bundle; train with "
            "--lora-rank 8"
        )
    if not run.info["backbone"].startswith(common):
        raise UserError(
            f"{model_file}: its base is {run.info['backbone']}, which others do not have; train it "
            f"over {common[0] if len(common) > 1 else PREFIX + 'smollm2_135m'}"
        )
    return run


def write_bundle(run: Checkpoint | ClassifierCheckpoint, folder: Path, opt: dict[str, Any]) -> None:
    """Write ``model``, ``model.opt`` and the weights, rounded to bfloat16, into ``folder``.

    Tokenizer, optimiser and folders of this machine are left out.

    Args:
        run: from :func:`open_checkpoint`.
        folder: a new folder.
        opt: for ``model.opt``.
    """
    weights = folder / WEIGHTS
    weights.mkdir(parents=True)
    for file in sorted(run.folder.glob("*.safetensors")):
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
        save_file(tensors, weights / file.name, metadata={"format": "pt"})
    config = read_json(run.folder / ADAPTER_FILE)
    write_json(weights / ADAPTER_FILE, _readable_config(config, run.info["backbone"]))
    of_run = ("base_folder", "precision")
    info = {key: value for key, value in run.info.items() if key not in of_run}
    write_json(weights / INFO_FILE, info)
    manifest: dict[str, Any] = {"format": run.FORMAT, "weights": WEIGHTS, "number": 1}
    if isinstance(run, ClassifierCheckpoint):
        manifest["temperature"] = run.temperature
    write_json(folder / "model", manifest)
    write_json(folder / "model.opt", opt)
    for file in weights.iterdir():  # safetensors writes for the owner alone
        file.chmod(0o644)


def _readable_config(config: dict[str, Any], backbone: str) -> dict[str, Any]:
    """peft's configuration, less what is at its default and what only this version knows."""
    default = LoraConfig().to_dict()
    kept = {key: value for key, value in config.items() if value != default.get(key)}
    shape = {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha")}
    modules = config["target_modules"]
    if isinstance(modules, list):
        modules = sorted(modules)  # peft writes a set, in any order
    kept |= shape | {"target_modules": modules, "base_model_name_or_path": backbone}
    return {key: value for key, value in kept.items() if key not in ("peft_version", "revision")}


def bundled_files(folder: Path) -> list[ZooFile]:
    """All files of a bundle, with hashes and sizes."""
    return [
        ZooFile(file.relative_to(folder).as_posix(), file_sha256(file), file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def change_by_rounding(run_file: str, bundle_file: str, datapath: str) -> float:
    """The greatest change of a score between a run and its bundle, on :data:`PROBES`.

    Args:
        run_file, bundle_file: manifests.
        datapath: ParlAI's, for the base.

    Returns:
        Nats a token for a generator, probability for a classifier.
    """
    before, after = (_scores(file, datapath) for file in (run_file, bundle_file))
    return (before - after).abs().max().item()


def _scores(model_file: str, datapath: str) -> torch.Tensor:
    contexts, replies = zip(*PROBES, strict=True)
    if isinstance(open_checkpoint(model_file), ClassifierCheckpoint):
        return open_classifier(model_file, "--model", datapath).probabilities(contexts, replies)
    backbone = open_generator(model_file, "--model", datapath).backbone
    packed = backbone.pack(
        [backbone.prompt.encode_context(context) for context in contexts],
        [[backbone.prompt.encode_response(reply)] for reply in replies],
    )
    with torch.no_grad():
        return backbone(packed).mean_log_probs()
