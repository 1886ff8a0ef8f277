"""``prosocial export``: models for Hugging Face, llama.cpp and whoever reads a card."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cards.card import model_card, parlai_arguments
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import write_aside

OUT = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A new folder.",
)
MODEL = click.option(
    "--model",
    required=True,
    help="ParlAI's -mf, a name from the zoo, a model or adapter folder, a .gguf file, a hub name.",
)
RESULTS = click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Measurements for the card: results.json of compare or ablate, summary.json of evaluate, "
    "or classifier.json of bench_classifier.py.",
)
ROW = click.option(
    "--row",
    help="The model's row or column in --results, told by its weights where it is not given.",
)
PUSH = click.option("--push", metavar="REPO", help="Upload the folder to this Hugging Face repo.")
TITLE = click.option("--title", help="The card's title; default the folder's name.")
DATAPATH = click.option("--datapath", default=None, help="ParlAI's data path, for the zoo.")


@click.group()
def export() -> None:
    """Write a model out for Hugging Face and llama.cpp, with its card."""


@export.command()
@MODEL
@OUT
@click.option("--adapter", is_flag=True, help="Keep the adapter apart, in peft's layout.")
@click.option(
    "--gguf",
    type=click.Choice(["f16", "f32"]),
    is_flag=False,
    flag_value="f16",
    help="Write model-f16.gguf too, for llama.cpp (Llama-shaped models); f32 if you say so.",
)
@PUSH
@RESULTS
@ROW
@TITLE
@DATAPATH
def hf(
    model: str,
    out: Path,
    adapter: bool,
    gguf: str | None,
    push: str | None,
    results: tuple[Path, ...],
    row: str | None,
    title: str | None,
    datapath: str | None,
) -> None:
    """Write a model of -m prosocial as a Hugging Face folder.

    Weights (an adapter merged), tokenizer with the system prompt as its template's default,
    generation settings, contrast head, and a model card. It replies as the agent does.

    \b
    Example:
      prosocial export hf --model zoo:prosocial/smollm2_135m_prosocial --out exported --gguf
    """
    if adapter and gguf:
        raise UserError("--gguf: holds whole models; leave --adapter out")
    from parlai_prosocial.cards.facts import hf_facts, measured_in_zoo
    from parlai_prosocial.export.gguf import write_gguf
    from parlai_prosocial.export.hugging_face import check_new, export_model
    from parlai_prosocial.zoo.resolve import find, open_generator

    check_new(out)
    where = str(find(model, "--model", datapath).path)
    opened = open_generator(model, "--model", datapath)
    measured = _measured(results, row, model, where) or measured_in_zoo(where)
    facts = hf_facts(opened, where, push or out.name, title or out.name, measured, adapter)
    export_model(opened, out, adapter, model_card(facts))
    if gguf:
        try:
            write_gguf(out, out / f"model-{gguf}.gguf", gguf)
        except BaseException:
            shutil.rmtree(out)  # half of what was asked for
            raise
    _finish(out, push)


@export.command()
@MODEL
@OUT
@PUSH
@RESULTS
@ROW
@TITLE
@DATAPATH
def parlai(
    model: str,
    out: Path,
    push: str | None,
    results: tuple[Path, ...],
    row: str | None,
    title: str | None,
    datapath: str | None,
) -> None:
    """Write a generator of ParlAI, of BlenderBot's shape, as a Hugging Face folder.

    For -mf of -m transformer/generator and -m prosocial/transformer: the variants prelayernorm
    (BlenderBot 400M, 3B) and xlm (90M).

    \b
    Example:
      prosocial export parlai --model zoo:blender/blender_90M/model --out blender
    """
    from parlai_prosocial.cards.facts import parlai_facts
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.export.blenderbot import convert, read_generator
    from parlai_prosocial.export.hugging_face import CARD_FILE, check_new, written_aside
    from parlai_prosocial.zoo.resolve import Kind, find, named

    check_new(out)
    found = find(model, "--model", datapath)
    if found.kind is not Kind.FILE:
        mend = "" if found.kind is Kind.CLASSIFIER else "; write it out by `prosocial export hf`"
        raise found.refused(f"is {found.kind}, no generator of ParlAI{mend}")
    where = str(found.place)
    with named("--model", model):
        generator = read_generator(where, find_datapath(datapath))
        with written_aside(out) as aside:
            convert(generator, aside)
            measured = _measured(results, row, model, str(aside))
            name = push or out.name
            facts = parlai_facts(generator, where, model, name, title or out.name, measured)
            (aside / CARD_FILE).write_text(model_card(facts), "utf-8")
    _finish(out, push)


@export.command()
@MODEL
@OUT
@RESULTS
@ROW
@TITLE
@DATAPATH
def card(
    model: str,
    out: Path,
    results: tuple[Path, ...],
    row: str | None,
    title: str | None,
    datapath: str | None,
) -> None:
    """Write the card of a model or classifier alone, and what ParlAI's own card takes of it.

    OUT/README.md is the card; OUT/args.json feeds `parlai generate_model_card -mf MODEL -fts OUT`.

    \b
    Example:
      prosocial export card --model zoo:prosocial/smollm2_135m_prosocial --out card
    """
    from parlai_prosocial.cards.facts import OWN_USAGE, classifier_facts, hf_facts, measured_in_zoo
    from parlai_prosocial.export.hugging_face import CARD_FILE, check_new
    from parlai_prosocial.zoo.resolve import Kind, find, open_classifier, open_generator, shown_name

    check_new(out)
    found = find(model, "--model", datapath)
    where = str(found.path)
    measured = _measured(results, row, model, where) or measured_in_zoo(where)
    if found.kind is Kind.CLASSIFIER:
        classifier = open_classifier(model, "--model", datapath)
        facts = classifier_facts(classifier, where, model, title or out.name, measured)
    else:
        opened = open_generator(model, "--model", datapath)
        facts = hf_facts(opened, where, shown_name(model), title or out.name, measured)
        # As it is, and not exported, transformers cannot open it.
        facts = replace(facts, usage=OWN_USAGE.format(path=shown_name(model)))
    write_aside(out / CARD_FILE, model_card(facts))
    arguments = parlai_arguments(facts, [model, str(Path(where).resolve())])
    write_aside(out / "args.json", json.dumps(arguments, indent=1) + "\n")
    click.echo(
        f"{out / CARD_FILE}\nParlAI's own card with these sections:\n"
        f"  parlai generate_model_card -mf {model} -fts {out} --mode gen:data_stats:eval:sample\n"
        f"  parlai generate_model_card -mf {model} -fts {out}"
    )


@export.command("lm-eval")
@click.option(
    "--suite",
    required=True,
    help="adversarial, prosocial, mic, or a file of your own data: contexts with replies of both "
    "kinds.",
)
@OUT
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--fold", default=0, show_default=True, help="Of DiaSafety, 0 to 3.")
@click.option(
    "--prosocial-sample", is_flag=True, help="The bundled samples of ProsocialDialog and MIC."
)
@click.option("--mic-data", help="MIC.csv or a folder; default DATAPATH/mic/MIC.csv.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
def lm_eval(
    suite: str,
    out: Path,
    split: str,
    fold: int,
    prosocial_sample: bool,
    mic_data: str | None,
    datapath: str | None,
) -> None:
    """Write a suite as tasks of lm-evaluation-harness, for any model that it runs.

    They ask whether a fitting reply is likelier than an unfit one in the same context.

    \b
    Example:
      prosocial export lm-eval --suite adversarial --out lm-eval-tasks
    """
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.evaluation.suites.lm_eval import task_name, usage, write_tasks
    from parlai_prosocial.evaluation.suites.suite import Sources, load_suite
    from parlai_prosocial.export.hugging_face import check_new, written_aside

    check_new(out)
    sources = Sources(find_datapath(datapath), split, fold, prosocial_sample, mic_data)
    found = load_suite(suite, sources)
    with written_aside(out) as aside:
        names = write_tasks(found, task_name(suite), aside, out)
    _finish(out, None)
    click.echo(usage(out, names))


def _measured(
    files: Sequence[Path], row: str | None, model: str, where: str
) -> list[dict[str, Any]]:
    from parlai_prosocial.cards.results import measured_on, own_weights

    return [measured_on(file, row, model, own_weights(Path(where))) for file in files]


def _finish(out: Path, push: str | None) -> None:
    for file in sorted(out.iterdir()):
        click.echo(f"{file.stat().st_size:>13,}  {out / file.name}")
    if push:
        from parlai_prosocial.export.push import push_to_hub

        click.echo(f"Uploaded to {push_to_hub(out, push)}")
