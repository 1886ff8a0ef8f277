"""What a card says of an opened model: its facts, and an example that runs."""

from pathlib import Path
from typing import Any

from parlai_prosocial.cards.card import CardFacts
from parlai_prosocial.cards.provenance import entry_beside, training_chain
from parlai_prosocial.export.blenderbot import ParlaiGenerator
from parlai_prosocial.export.hugging_face import public_name
from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier
from parlai_prosocial.zoo.entry import PREFIX
from parlai_prosocial.zoo.resolve import OpenedModel, shown_name

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
parlai interactive -mf {file}
parlai interactive -mf zoo:prosocial/smollm2_135m/model --show-safety true --safety-model {file}
prosocial evaluate --model zoo:prosocial/smollm2_135m --suite adversarial \\
    --judge classifier:{model} --out runs/judged
```"""


def hf_facts(
    opened: OpenedModel,
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
    classifier: SafetyClassifier,
    model_file: str,
    model: str,
    title: str,
    results: list[dict[str, Any]],
) -> CardFacts:
    """What the card says of a checkpoint of -m prosocial/classifier.

    Args:
        classifier: as it was opened.
        model_file: its checkpoint.
        model: its name for who wants to use it.
        title: of the card.
        results: what was measured.
    """
    name = shown_name(model)
    encoder = classifier.encoder.get_base_model() if classifier.adapted else classifier.encoder
    weights = [p.numel() for n, p in classifier.named_parameters() if "lora_" not in n]
    return CardFacts(
        title=title,
        backbone=public_name(ClassifierCheckpoint(model_file).info["backbone"]),
        architecture=type(encoder).__name__,
        parameters=sum(weights),
        prompt=(
            f"It reads the last {classifier.max_tokens} tokens. Its logits are divided by "
            f"{classifier.temperature:.3f}, so that its probabilities mean what they say."
        ),
        usage=CLASSIFIER_USAGE.format(
            file=f"{name}/model" if name.startswith(PREFIX) else name, model=name
        ),
        pipeline="text-classification",
        chain=training_chain(model_file),
        results=results,
        classes=classifier.labels,
    )


def parlai_facts(
    generator: ParlaiGenerator,
    model_file: str,
    model: str,
    where: str,
    title: str,
    results: list[dict[str, Any]],
) -> CardFacts:
    """What the card says of a generator of ParlAI.

    Args:
        generator: the model.
        model_file: what it was read from.
        model: its name.
        where, title, results: as for :func:`hf_facts`.
    """
    opt = generator.opt
    return CardFacts(
        title=title,
        backbone=Path(opt.get("init_model") or model).name,
        architecture=generator.architecture,
        parameters=generator.parameters,
        prompt=(
            "The turns so far go to the encoder as one text, joined by "
            f"{opt.get('delimiter', chr(10))!r}; the decoder writes the reply."
        ),
        usage=SEQ2SEQ_USAGE.format(
            path=where, text="Hi!", tokenizer=generator.dictionary.tokenizer_class
        ),
        pipeline="text-generation",
        chain=training_chain(model_file),
        results=results,
    )


def measured_in_zoo(model_file: str) -> list[dict[str, Any]]:
    """The results that the zoo has of an installed model."""
    entry = entry_beside(Path(model_file))
    return list(entry.metrics) if entry else []
