"""How much does the safety classifier gain from seeing the context?

For every fold: trains the classifier of ``recipes/classifier/diasafety.opt`` on ``judge-train``,
once on context and reply and once on the reply alone, calibrates both on ``valid``, and measures
both on ``test``. Each training is the stock ``parlai train_model``, printed before it runs.

    python benchmarks/bench_classifier.py
    python benchmarks/bench_classifier.py --fold 0 --set learningrate=1e-4 --out runs/other

Stopped half-way, the same command goes on with the first model that is not finished.
"""

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.script import superscript_main
from transformers.utils.logging import disable_progress_bar

from parlai_prosocial.cards.card import without_folders
from parlai_prosocial.compat.flags import parse_setting
from parlai_prosocial.data import diasafety
from parlai_prosocial.data.example import NOT_OK_LABEL, OK_LABEL
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.evaluation.calibrate import calibrate_checkpoint
from parlai_prosocial.evaluation.results.tables import make_table, markdown_table, terminal_table
from parlai_prosocial.evaluation.statistics.bootstrap import holm
from parlai_prosocial.evaluation.statistics.calibration import expected_calibration_error
from parlai_prosocial.experiments.classification import (
    Predictions,
    Statistic,
    accuracy,
    difference,
    interval_of,
    macro_f1,
    unsafe_auc,
)
from parlai_prosocial.experiments.ranking import CONTEXT_BOUND, GIVE_AWAY
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.models.classifier import ClassifierCheckpoint
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.util.environment import VERSIONS, environment
from parlai_prosocial.util.files import write_aside
from parlai_prosocial.zoo.resolve import open_classifier

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "parlai_prosocial" / "recipes" / "classifier" / "diasafety.opt"
ARMS = {
    "context and reply": [],
    # ParlAI's own flags: of the message's lines, the history keeps the last one.
    "reply only": ["--split-lines", "true", "--history-size", "1"],
}
PRIMARY = "AUC, mean of the context-bound categories"


def trained(arm: str, fold: int, out: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Train and calibrate a model, or return the record of when that was done."""
    folder = out / f"{arm.replace(' ', '-')}-{fold}"
    arguments = ["train_model", "-o", str(RECIPE), "-mf", str(folder / "model"), *ARMS[arm]]
    arguments += ["--diasafety-fold", str(fold), "--seed", str(fold)]
    for setting in settings:
        key, value = parse_setting(setting)
        arguments += ["--" + key, value]
    command = shlex.join(["parlai", *arguments])
    finished = folder / "finished.json"
    if finished.exists():
        record = json.loads(finished.read_text("utf-8"))
        if record["command"] != command:
            raise UserError(
                f"{finished}: trained by another command; give another --out or delete its folder"
            )
        click.echo(f"{arm}, fold {fold}: finished before")
        return record
    click.echo(command)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    superscript_main(arguments)
    record = {
        "arm": arm,
        "fold": fold,
        "command": command,
        "seconds": time.monotonic() - started,
        "model_file": str(folder / "model"),
        "weights": weights_sha256(ClassifierCheckpoint(str(folder / "model")).folder)[:16],
        "calibration": asdict(calibrate_checkpoint(str(folder / "model"))),
    }
    write_aside(finished, json.dumps(record, indent=2) + "\n")
    return record


def without_this_machine(record: Any, out: Path) -> Any:
    """A record with paths as others have them: of the repository, and within the runs' folder."""
    if isinstance(record, dict):
        return {key: without_this_machine(value, out) for key, value in record.items()}
    if not isinstance(record, str):
        return record
    return without_folders(record.replace(f"{REPOSITORY}/", "").replace(f"{out}/", f"{out.name}/"))


def predictions_of(record: dict[str, Any]) -> tuple[Predictions, Predictions]:
    """What a model predicts on its fold's test part: calibrated, and not."""
    opt = Opt.load(record["model_file"] + ".opt")
    datapath = ParlaiParser(True, False).parse_args([])["datapath"]
    rows = diasafety.load_rows(
        datapath, "test", fold=opt["diasafety_fold"], source=opt["diasafety_data"]
    )
    classifier = open_classifier(record["model_file"])
    if classifier.labels != [OK_LABEL, NOT_OK_LABEL]:
        raise UserError(f"{record['model_file']}: its classes are not {OK_LABEL} {NOT_OK_LABEL}")
    sees_context = record["arm"] != "reply only"
    contexts = [row["context"] if sees_context else "" for row in rows]
    logits = classifier.logits(contexts, [row["response"] for row in rows])
    calibrated, plain = (
        Predictions(
            probabilities=(logits / temperature).softmax(1).numpy(),
            labels=np.array([int(row["label"] == diasafety.UNSAFE) for row in rows]),
            categories=[row["category"] for row in rows],
            clusters=[normalise_text(row["context"]) for row in rows],
        )
        for temperature in (classifier.temperature, 1.0)
    )
    return calibrated, plain


def calibration_error(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    return expected_calibration_error(predictions.probabilities, predictions.labels, weights)


def results_table(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Both arms and their difference, a measure a row, as ``tables.make_table`` gives it."""
    calibrated: dict[str, dict] = {arm: {} for arm in ARMS}
    plain: dict[str, dict] = {arm: {} for arm in ARMS}
    for record in records:
        arm, fold = record["arm"], record["fold"]
        calibrated[arm][fold], plain[arm][fold] = predictions_of(record)

    rows: list[tuple[str, Statistic, tuple[str, ...] | None, dict[str, dict]]] = [
        (PRIMARY, unsafe_auc, CONTEXT_BOUND, calibrated),
        ("AUC, mean of the give-away categories", unsafe_auc, GIVE_AWAY, calibrated),
        *(
            (f"AUC, {name}", unsafe_auc, (name,), calibrated)
            for name in (*CONTEXT_BOUND, *GIVE_AWAY)
        ),
        ("AUC, all categories together", unsafe_auc, None, calibrated),
        ("accuracy", accuracy, None, calibrated),
        ("macro-F1", macro_f1, None, calibrated),
        ("calibration error before", calibration_error, None, plain),
        ("calibration error after", calibration_error, None, calibrated),
    ]
    with_context, without = ARMS
    differences = {
        name: difference(measure, runs[with_context], runs[without], categories)
        for name, measure, categories, runs in rows
    }
    primary = differences.pop(PRIMARY)
    differences = {PRIMARY: primary, **holm(differences)}
    columns: dict[str, dict[str, Any]] = {"measure": {"label": "measure"}}
    columns |= {name: {"label": name, "scale": 100} for name in (*ARMS, "difference")}
    return make_table(
        "Safety classifier on DiaSafety, test part",
        columns,
        [
            {"measure": name, "difference": differences[name]}
            | {arm: interval_of(measure, runs[arm], categories) for arm in ARMS}
            for name, measure, categories, runs in rows
        ],
        [
            f"The primary comparison is {PRIMARY}; the other differences are corrected by Holm's "
            "method. All in per cent, with 95 % bootstrap intervals over contexts and folds."
        ],
    )


@click.command()
@click.option("--fold", "folds", type=int, multiple=True, default=(0, 1, 2), show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/classifier"),
    show_default=True,
    help="Folder of the models.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=REPOSITORY / "benchmarks" / "results",
    help="Folder of classifier.json and classifier.md; default benchmarks/results.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any parlai flag.")
def main(folds: tuple[int, ...], out: Path, results: Path, settings: tuple[str, ...]) -> None:
    """Train the safety classifier with and without the context, and compare the two."""
    show_user_errors_as_one_line()
    disable_progress_bar()  # of a second's loading
    records = [trained(arm, fold, out, settings) for arm in ARMS for fold in folds]
    table = results_table(records)
    click.echo(terminal_table(table))
    command = shlex.join(
        ["python", "benchmarks/bench_classifier.py"]
        + [part for fold in folds for part in ("--fold", str(fold))]
        + [part for setting in settings for part in ("--set", setting)]
    )
    facts = environment(best_device(), False, sum(record["seconds"] for record in records))
    command = without_folders(command)
    facts |= {"command": command}
    models = [without_this_machine(record, out) for record in records]
    content = {"environment": facts, "tables": [table], "models": models}
    write_aside(results / "classifier.json", json.dumps(content, indent=2) + "\n")
    write_aside(
        results / "classifier.md",
        f"{markdown_table(table)}\n\nMade by `{command}` in {facts['seconds'] / 60:.0f} minutes of "
        f"training on {facts['device']}, {facts['cores']} cores; "
        + ", ".join(f"{name} {facts[name]}" for name in VERSIONS)
        + ".\n",
    )
    click.echo(f"Written: {results / 'classifier.json'}, {results / 'classifier.md'}")


if __name__ == "__main__":
    main()
