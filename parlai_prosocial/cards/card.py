"""The model card: what a model is, what made it, what was measured, and how it fails.

It says only what files say: where nobody recorded or measured something, it says so.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlai_prosocial.cards.measured import ROW_KEYS
from parlai_prosocial.cards.provenance import Corpus, TrainedStep, corpora_of
from parlai_prosocial.util.counting import counted
from parlai_prosocial.zoo.bases import minilm
from parlai_prosocial.zoo.entry import PREFIX, find_entry

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

SECTIONS = (
    "What it is",
    "How to use it",
    "Training data",
    "Recipe",
    "Evaluation",
    "How it fails",
    "Intended use and limits",
    "Licences",
    "Environmental cost",
    "Citation",
)
HUB_NAMES = {
    f"{PREFIX}smollm2_135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    f"{PREFIX}smollm2_135m_hub": "HuggingFaceTB/SmolLM2-135M-Instruct",
    minilm.PACKAGE: "sentence-transformers/all-MiniLM-L6-v2",
}
PAPER = (
    "Das and Srihari, Improving Dialog Safety using Socially Aware Contrastive Learning, "
    "SCI-CHAT at EACL 2024, https://arxiv.org/abs/2402.00446"
)


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from.

    Attributes:
        title: the model's name.
        backbone: the name of the base.
        architecture: class of the language model.
        parameters: all of it, the adapter merged.
        prompt: how a dialogue is put to it, a sentence or two.
        usage: Python that loads and asks it.
        pipeline: Hugging Face's name of the task.
        chain: what it was trained by, the first run first.
        results: from :func:`~parlai_prosocial.cards.measured.read_results`.
        keeps_adapter: the base is not in the folder.
        reranks: how many replies the agent chooses from; 0 for none.
        classes: of a safety classifier; none for a generator.
    """

    title: str
    backbone: str
    architecture: str
    parameters: int
    prompt: str
    usage: str
    pipeline: str
    chain: Sequence[TrainedStep] = ()
    results: Sequence[dict[str, Any]] = ()
    keeps_adapter: bool = False
    reranks: int = 0
    classes: Sequence[str] = ()


PARLAI_SECTIONS = {
    "recipe": "Recipe",
    "intended_use": "Intended use and limits",
    "training_data": "Training data",
    "both_axes": "Evaluation",
    "how_it_fails": "How it fails",
    "licences": "Licences",
    "environmental_cost": "Environmental cost",
    "related_paper": "Citation",
}
"""What ParlAI's card is given of ours, by its names."""


def model_card(facts: CardFacts) -> str:
    """The card in Markdown, with Hugging Face's metadata at its head."""
    parts = [_metadata(facts, corpora_of(facts.chain)), f"# {facts.title}"]
    parts += [f"## {name}\n\n{body}" for name, body in card_sections(facts).items()]
    return "\n\n".join(parts) + "\n"


def parlai_arguments(facts: CardFacts, names: Sequence[str]) -> dict[str, Any]:
    """``args.json`` for ``parlai generate_model_card``.

    Its section on ParlAI's Safety Bench, which needs downloads, gives way to ours.

    Args:
        facts: of the model.
        names: under which ParlAI may look for it: ``-mf`` as typed, and as a full path.
    """
    own = card_sections(facts)
    model = {"title": facts.title, "description": own["What it is"], "author": "parlai-prosocial"}
    model |= {theirs: own[ours] for theirs, ours in PARLAI_SECTIONS.items()}
    sections = ["model_details", "quick_usage", "sample_input_and_output", *PARLAI_SECTIONS]
    return {
        "extra_models": dict.fromkeys(names, model),
        "user_section_list": [*sections, "datasets_used", "evaluation", "hyperparameters"],
    }


def card_sections(facts: CardFacts) -> dict[str, str]:
    """The texts of :data:`SECTIONS`, in that order."""
    corpora = corpora_of(facts.chain)
    bodies = (
        _what(facts),
        facts.usage,
        _data(facts.chain, corpora),
        _recipe(facts.chain),
        _evaluation(facts),
        _failures(facts),
        _limits(facts),
        _licences(facts, corpora),
        _cost(facts),
        _citation(corpora),
    )
    return dict(zip(SECTIONS, bodies, strict=True))


def _metadata(facts: CardFacts, corpora: Sequence[Corpus]) -> str:
    from huggingface_hub import ModelCardData

    base = HUB_NAMES.get(facts.backbone, facts.backbone)
    licence = _base_licence(facts)
    measured = [result for content in facts.results for result in _eval_results(facts, content)]
    data = ModelCardData(
        language="en",
        library_name="peft" if facts.classes else "transformers",
        pipeline_tag=facts.pipeline,
        license=licence.lower() if licence else None,
        base_model=base if base.count("/") == 1 and ":" not in base else None,
        datasets=[corpus.hub for corpus in corpora if corpus.hub] or None,
        tags=["dialogue-safety", "parlai"],
        model_name=facts.title,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(facts: CardFacts, content: dict[str, Any]) -> "Iterator[EvalResult]":
    """A model's rates for the hub's ``model-index``, each with its interval.

    What compares models is not the model's own, and left out.
    """
    from huggingface_hub import EvalResult

    own = content["row"]
    for table in content["tables"]:
        for row in table["rows"]:
            if own in table["columns"]:  # a measure a row
                cells = {next(iter(row.values())): (own, row.get(own))}
            elif any(row.get(key) == own for key in ROW_KEYS):
                cells = {key: (key, value) for key, value in row.items()}
            else:
                continue
            for metric, (key, value) in cells.items():
                if not isinstance(value, dict) or value.get("estimate") is None:
                    continue
                if value.get("null") is not None:
                    continue
                column = table["columns"][key]
                scale = column.get("scale", 1)
                numbers = {
                    end: round(value[end] * scale, 3)
                    for end in ("estimate", "low", "high")
                    if value.get(end) is not None
                }
                yield EvalResult(
                    task_type=facts.pipeline,
                    dataset_type="parlai-prosocial",
                    dataset_name=row.get("suite") or table["title"].partition(":")[0],
                    metric_type=metric,
                    metric_name=metric if key == own else column["label"],
                    metric_value=numbers.pop("estimate"),
                    metric_args=numbers or None,
                )


def _what(facts: CardFacts) -> str:
    if facts.classes:
        return (
            "A safety classifier: it reads a line and the dialogue before it, and gives each of "
            f"{', '.join(f'`{name}`' for name in facts.classes)} a probability. "
            f"{facts.architecture}, {facts.parameters:,} parameters, tuned from "
            f"`{facts.backbone}`.\n\n{facts.prompt}"
        )
    trained = (
        f"It was tuned from `{facts.backbone}` in {counted(len(facts.chain), 'run')} with "
        "parlai-prosocial, which contrasts fitting replies with unfit ones."
        if facts.chain
        else f"It is `{facts.backbone}` as it is: no file beside it records a training run."
    )
    where = " Only its adapter is in this folder, not its base." if facts.keeps_adapter else ""
    text = f"A dialogue model, {facts.architecture}, {facts.parameters:,} parameters.{where} "
    text += f"{trained}\n\n{facts.prompt}"
    if facts.reranks:
        text += (
            f"\n\nUnder ParlAI it samples {facts.reranks} replies and chooses by its contrast head "
            "(`contrast_head.safetensors`); transformers alone does not, `parlai_prosocial."
            "Prosocial` does."
        )
    return text


def _data(chain: Sequence[TrainedStep], corpora: Sequence[Corpus]) -> str:
    if not chain:
        return "Not recorded."
    lines = [f"- {c.name}: {c.source}; licence: {c.licence}." for c in corpora]
    known = {"diasafety", "self_dialogue", "prosocial", "mic"}
    for step in chain:
        if step.own_data:
            lines.append(f"- The trainer's own file `{Path(step.own_data).name}`.")
        if step.on_samples:
            lines.append("- The small samples of parlai-prosocial, which only show that all works.")
        lines += [
            f"- ParlAI's task `{task}`." for task in step.tasks if task.split(":")[0] not in known
        ]
    lines = list(dict.fromkeys(lines))
    return "\n".join([*lines, "", "Some of these corpora hold offensive and abusive language."])


def _recipe(chain: Sequence[TrainedStep]) -> str:
    if not chain:
        return "None: no training run is recorded."
    parts = []
    for number, step in enumerate(chain, 1):
        settings = ", ".join(f"{key} {value}" for key, value in step.settings.items())
        facts = [f"task `{','.join(step.tasks)}`", settings]
        if step.steps is not None:
            facts.append(counted(step.steps, "step"))
        if step.tokens is not None:
            facts.append(f"{step.tokens:,} processed tokens")
        text = f"{number}. " + "; ".join(fact for fact in facts if fact) + "."
        if step.command:
            text += f"\n\n   ```\n   {without_folders(step.command)}\n   ```"
        parts.append(text)
    return "\n".join(parts)


def without_folders(command: str) -> str:
    """A command with the folders of this machine cut from its absolute paths.

    >>> without_folders("prosocial ablate --judge classifier:/a/b/model --out runs/x http://h:1/v1")
    'prosocial ablate --judge classifier:model --out runs/x http://h:1/v1'
    >>> without_folders("--judge classifier:runs/judge-{seed}/model")
    '--judge classifier:runs/judge-{seed}/model'
    """
    return re.sub(r"(?<![\w./}])/(?!/)([^\s/]+/)*", "", command)


def _evaluation(facts: CardFacts) -> str:
    from parlai_prosocial.evaluation.results.tables import markdown_table

    if not facts.results and facts.classes:
        return "Not measured. How often it errs, either way, must be known before it is used."
    if not facts.results:
        return (
            "Not measured. Both how often it is unsafe and how often it needlessly lectures must "
            "be known before it is used: `prosocial compare` measures both."
        )
    parts = []
    for content in facts.results:
        tables, name = content["tables"], content["row"]
        if any(name in row.values() for table in tables for row in table["rows"]):
            parts.append(f"This model is the row “{name}”.")
        else:
            parts.append(f"This model is the column “{name}”.")
        parts += [markdown_table(table) for table in tables]
        if environment := content.get("environment"):
            if "command" in environment:
                environment = environment | {"command": without_folders(environment["command"])}
            shown = ", ".join(f"{key} {value}" for key, value in environment.items())
            parts.append(f"Measured with: {shown}")
    return "\n\n".join(parts)


def _failures(facts: CardFacts) -> str:
    samples = [sample for content in facts.results for sample in content.get("samples", ())]
    if not samples and facts.classes:
        return (
            "It passes unfit lines and flags fitting ones, as often as the evaluation says: no "
            "single errors were sampled for this card. It learnt from one corpus, and how a reply "
            "is worded can sway it more than what it answers."
        )
    if not samples:
        return "No failures were sampled for this card. Read replies of it before you use it."
    parts = []
    for sample in samples:
        quoted = [f"> {_plain(turn)}  " for turn in sample["context"].split("\n")]
        quoted += [
            f"> **{_plain(sample['reply'])}**",
            f">\n> Judged: {_plain(sample['judgement'])}",
        ]
        parts.append("\n".join(quoted))
    said = "Replies that a judge calls unfit, drawn by lot. **Some are offensive.**"
    return "\n\n".join([said, *parts])


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    one_line = " ".join(str(text).split())
    escaped = "".join("\\" + c if c in "\\`*_{}[]()#+!|~" else c for c in one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _limits(facts: CardFacts) -> str:
    english = "- English. Other languages were not looked at."
    if facts.classes:
        return "\n".join(
            [
                "- For research on safer dialogue. It decides nothing alone: do not let it be the "
                "only thing between a model and the public.",
                english,
                "- A judge that chose a model's training data must not score that model.",
            ]
        )
    lines = [
        "- For research on safer dialogue. It is not safe: do not put it before the public as it "
        "is, and do not rely on it for advice.",
        english,
        "- It can still agree with something harmful, and still lecture where nothing is wrong.",
    ]
    if facts.backbone == f"{PREFIX}smollm2_135m":
        lines.append("- Its base is small and 4-bit in origin: part of any gain over it is repair.")
    return "\n".join(lines)


def _base_licence(facts: CardFacts) -> str | None:
    """Known of the zoo's bases and MiniLM alone."""
    if facts.backbone == minilm.PACKAGE:
        return "Apache-2.0"
    is_ours = facts.backbone.startswith(PREFIX)
    return find_entry(facts.backbone).licence if is_ours else None


def _licences(facts: CardFacts, corpora: Sequence[Corpus]) -> str:
    base = _base_licence(facts) or "see there; not recorded here"
    lines = [f"- Base `{facts.backbone}`: {base}.", "- Code: MIT."]
    return "\n".join(lines + [f"- {c.name}: {c.licence}." for c in corpora])


def _cost(facts: CardFacts) -> str:
    seconds = [step.seconds for step in facts.chain]
    if not seconds:
        return "No training is recorded."
    shown = ", ".join("not recorded" if s is None else f"{s:,.0f} s" for s in seconds)
    known = sum(s for s in seconds if s is not None)
    machines = {
        f"{e['device']}, {e['cores']} cores, {e['precision']}"
        for content in facts.results
        if {"device", "cores", "precision"} <= (e := content.get("environment") or {}).keys()
    }
    machine = "; ".join(sorted(machines)) or "not recorded"
    return (
        f"Training by run: {shown}; together {known:,.0f} s of wall time. Machine of the "
        f"measurements: {machine}. "
        "Energy was not measured."
    )


def _citation(corpora: Sequence[Corpus]) -> str:
    lines = [f"- The idea: {PAPER}. This is a reconstruction, not the authors' model."]
    return "\n".join(lines + [f"- {corpus.citation}." for corpus in corpora])
