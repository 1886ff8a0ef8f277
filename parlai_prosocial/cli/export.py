"""``prosocial export``: models for Hugging Face, llama.cpp and whoever reads a card."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cards.card import CardFacts, model_card, parlai_arguments, read_results
from parlai_prosocial.cards.provenance import entry_beside, training_chain
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
    help="ParlAI's -mf, a name from the zoo, a model folder or a hub name.",
)
RESULTS = click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Measurements for the card: results.json of compare or ablate, summary.json of evaluate, "
    "or classifier.json of bench_classifier.py.",
)
ROW = click.option("--row", help="The model's row or column in --results; default --model's name.")
PUSH = click.option("--push", metavar="REPO", help="Upload the folder to this Hugging Face repo.")
TITLE = click.option("--title", help="The card's title; default the folder's name.")
DATAPATH = click.option("--datapath", default=None, help="ParlAI's data path, for the zoo.")

CAUSAL_USAGE = """\
```python
from transformers import pipeline

generate = pipeline("text-generation", model="{path}")
conversation = [{{"role": "user", "content": "Hi!"}}]
reply = generate(conversation, do_sample={do_sample}, max_new_tokens={max_new_tokens})
print(reply[0]["generated_text"][-1]["content"])
```"""
SEQ2SEQ_USAGE = """\
```python
from transformers import AutoModelForSeq2SeqLM, {tokenizer}

tokenizer = {tokenizer}.from_pretrained("{path}")
model = AutoModelForSeq2SeqLM.from_pretrained("{path}")
inputs = tokenizer({text!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```"""
OWN_USAGE = """\
```python
from parlai_prosocial import Prosocial

print(Prosocial.from_pretrained("{path}").reply(["Hi!"]).text)
```"""
ADAPTER_USAGE = f"""\
{OWN_USAGE}

Other programs load it with peft over the base, whose weights must have the sha256 in
`prosocial.json` under `base_sha256`."""

CLASSIFIER_USAGE = """\
```sh
parlai interactive -mf {model}
parlai interactive -mf zoo:prosocial/smollm2_135m/model --show-safety true --safety-model {model}
prosocial evaluate --model zoo:prosocial/smollm2_135m --suite adversarial \\
    --judge classifier:{model} --out runs/judged
```"""


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
    """
    if adapter and gguf:
        raise UserError("--gguf: holds whole models; leave --adapter out")
    measured = [read_results(file, row or model) for file in results]

    from parlai_prosocial.api import find_model, open_anything
    from parlai_prosocial.export.gguf import write_gguf
    from parlai_prosocial.export.hugging_face import check_new, export_model

    check_new(out)
    where = str(find_model(model, datapath))
    measured = measured or _measured_in_zoo(where)
    opened = open_anything(model, datapath)
    facts = hf_facts(opened, where, push or out.name, title or out.name, measured, adapter)
    export_model(opened, out, adapter, model_card(facts))
    if gguf:
        try:
            write_gguf(out, out / f"model-{gguf}.gguf", gguf)
        except UserError:
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
    """
    measured = [read_results(file, row or model) for file in results]

    from parlai_prosocial.api import find_model
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.export.blenderbot import convert, read_generator
    from parlai_prosocial.export.hugging_face import (
        CARD_FILE,
        check_new,
        move_into_place,
        start_aside,
    )

    check_new(out)
    where = str(find_model(model, datapath))
    generator = read_generator(where, find_datapath(datapath))
    facts = CardFacts(
        title=title or out.name,
        backbone=Path(generator.opt.get("init_model") or model).name,
        architecture=generator.architecture,
        parameters=generator.parameters,
        prompt=(
            "The turns so far go to the encoder as one text, joined by "
            f"{generator.opt.get('delimiter', chr(10))!r}; the decoder writes the reply."
        ),
        usage=SEQ2SEQ_USAGE.format(
            path=push or out.name, text="Hi!", tokenizer=generator.dictionary.tokenizer_class
        ),
        pipeline="text-generation",
        chain=training_chain(where),
        results=measured,
    )
    aside = start_aside(out)
    convert(generator, aside)
    (aside / CARD_FILE).write_text(model_card(facts), "utf-8")
    move_into_place(aside, out)
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
    """
    measured = [read_results(file, row or model) for file in results]

    from parlai_prosocial.api import find_model, open_anything
    from parlai_prosocial.export.hugging_face import CARD_FILE, check_new
    from parlai_prosocial.models.classifier import is_classifier

    check_new(out)
    where = str(find_model(model, datapath))
    measured = measured or _measured_in_zoo(where)
    if is_classifier(where):
        facts = classifier_facts(where, model, title or out.name, measured)
    else:
        opened = open_anything(model, datapath)
        facts = hf_facts(opened, where, model, title or out.name, measured)
        # As it is, and not exported, transformers cannot open it.
        facts = replace(facts, usage=OWN_USAGE.format(path=model))
    write_aside(out / CARD_FILE, model_card(facts))
    arguments = parlai_arguments(facts, [model, str(Path(where).resolve())])
    write_aside(out / "args.json", json.dumps(arguments, indent=1) + "\n")
    click.echo(
        f"{out / CARD_FILE}\nParlAI's own card with these sections:\n"
        f"  parlai generate_model_card -mf {model} -fts {out} --mode gen:data_stats:eval:sample\n"
        f"  parlai generate_model_card -mf {model} -fts {out}"
    )


def _measured_in_zoo(model_file: str) -> list[dict[str, Any]]:
    entry = entry_beside(Path(model_file))
    return list(entry.metrics) if entry else []


def hf_facts(
    opened: Any,
    model_file: str,
    where: str,
    title: str,
    results: list[dict[str, Any]],
    adapter: bool = False,
) -> CardFacts:
    """What the card says of an :class:`~parlai_prosocial.zoo.resolve.OpenedModel`.

    Args:
        opened: the model.
        model_file: what it was opened from.
        where: the folder or repository that the card's example loads.
        title: of the card.
        results: what was measured.
        adapter: the adapter is kept apart.
    """
    from parlai_prosocial.export.hugging_face import public_name

    backbone = opened.backbone
    prompt = backbone.prompt
    weights = [p.numel() for name, p in backbone.model.named_parameters() if "lora_" not in name]
    if prompt.has_template:
        how = (
            "Its chat template puts this system prompt before a conversation that has none: "
            f"“{prompt.system_prompt}”"
        )
    else:
        how = "A dialogue is put to it as `user: ...` and `assistant: ...`, one line a turn."
    usage = SEQ2SEQ_USAGE if backbone.is_encoder_decoder else CAUSAL_USAGE
    usage = ADAPTER_USAGE if adapter else usage
    return CardFacts(
        title=title,
        backbone=public_name(opened.name),
        architecture=type(backbone.lm).__name__,
        parameters=sum(weights),
        prompt=how,
        usage=usage.format(
            path=where,
            text="user: Hi!",
            tokenizer="AutoTokenizer",
            do_sample=opened.decoding["inference"] in ("topk", "nucleus"),
            max_new_tokens=opened.decoding["label_truncate"],
        ),
        pipeline="text2text-generation" if backbone.is_encoder_decoder else "text-generation",
        chain=training_chain(model_file),
        results=results,
        keeps_adapter=adapter,
        reranks=opened.decoding["rerank"],
    )


def classifier_facts(
    model_file: str, model: str, title: str, results: list[dict[str, Any]]
) -> CardFacts:
    """What the card says of a checkpoint of -m prosocial/classifier.

    Args:
        model_file: the checkpoint.
        model: its name for who wants to use it.
        title: of the card.
        results: what was measured.
    """
    from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier

    classifier = SafetyClassifier.load(model_file)
    encoder = classifier.encoder.get_base_model() if classifier.adapted else classifier.encoder
    weights = [p.numel() for n, p in classifier.named_parameters() if "lora_" not in n]
    return CardFacts(
        title=title,
        backbone=ClassifierCheckpoint(model_file).info["backbone"],
        architecture=type(encoder).__name__,
        parameters=sum(weights),
        prompt=(
            f"It reads the last {classifier.max_tokens} tokens. Its logits are divided by "
            f"{classifier.temperature:.3f}, so that its probabilities mean what they say."
        ),
        usage=CLASSIFIER_USAGE.format(model=model),
        pipeline="text-classification",
        chain=training_chain(model_file),
        results=results,
        classes=classifier.labels,
    )


def _finish(out: Path, push: str | None) -> None:
    for file in sorted(out.iterdir()):
        click.echo(f"{file.stat().st_size:>13,}  {out / file.name}")
    if push:
        push_to_hub(out, push)


def push_to_hub(folder: Path, repo: str) -> None:
    """Upload a folder, with the login or token that huggingface_hub finds by itself.

    Raises:
        UserError: the hub refuses or cannot be reached. The folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder))
    except Exception as error:  # requests' errors in huggingface_hub 0.x, httpx's in 1.x
        raise UserError(
            f"--push {repo}: not uploaded ({type(error).__name__}); log in by `hf auth login`, "
            f"then run `hf upload {repo} {folder}`"
        ) from None
    click.echo(f"Uploaded to https://huggingface.co/{repo}")
