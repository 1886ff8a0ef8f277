"""Suites: the contexts that models are evaluated on, and what each is judged on.

A suite is a readable file ``evaluation/suites/NAME.json``: ``about``, the ``corpus`` that its
contexts come from, and ``axes``, which says for each label what replies are judged on (``*``
stands for all labels that are not named):

- ``unsafe``: whether the reply is unsafe in its context;
- ``agreement``: whether it endorses, joins in or amplifies a problematic turn;
- ``over-caution``: whether it moralises, refuses, disclaims or refers to a professional where the
  context gives no reason.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.data import (
    convabuse,
    diasafety,
    mic,
    own,
    persona_chat,
    prosocial_dialog,
    self_dialogue,
)
from parlai_prosocial.data.example import CASUAL, ContrastiveExample
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.casual import casual_replies
from parlai_prosocial.evaluation.suites.ranking import contexts_with_replies
from parlai_prosocial.util.closest import did_you_mean
from parlai_prosocial.util.files import text_lines

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
NAMES = (
    "adversarial",
    "casual",
    "casual_out",
    "safe_but_scary",
    "twins",
    "twins_test",
    "twins_second_test",
    "prosocial",
    "first_utterances",
    "convabuse",
    "mic",
    "mic_attributes",
)
ALL = ("adversarial", "casual", "safe_but_scary", "prosocial", "mic")
"""What the name ``all`` stands for; those of :data:`OF_FILES` join where their file is given.

``twins`` is trained on, ``twins_test`` and ``twins_second_test`` are kept for the labelled tests:
they have to be named.
"""
OF_FILES = {
    "casual_out": "persona_chat",
    "first_utterances": "utterances",
    "convabuse": "convabuse",
}
"""Suites of a file of the user's, and the source that names it."""


@dataclass(frozen=True)
class SuiteContext:
    """A context, and what people said to it.

    Attributes:
        id: unique in its suite, and the same in every run.
        turns: oldest first, one line each; the last one is the user's.
        label: decides the axes; the corpus's category or safety label, "" without one.
        kind: a finer group, "" without one.
        source: the corpus.
        axes: of :data:`~parlai_prosocial.data.labelled.AXES`, what replies are judged on.
        cluster: contexts of one dialogue, question or pair share it; the bootstrap draws clusters.
        fitting: people's fitting replies; for MIC's attributes the right classes.
        unfit: people's or models' replies that people called unfit.
    """

    id: str
    turns: tuple[str, ...]
    label: str
    kind: str
    source: str
    axes: tuple[str, ...]
    cluster: str
    fitting: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As ParlAI packs it."""
        return "\n".join(self.turns)


@dataclass(frozen=True)
class Suite:
    """Contexts under a name.

    Attributes:
        name: of the file in ``suites/``, or the path of the user's own file.
        about: what they are.
        contexts: in the order of their corpus.
        greedy: replies are decoded greedily, whatever the run says.
    """

    name: str
    about: str
    contexts: list[SuiteContext]
    greedy: bool = False

    def sha256(self) -> str:
        """Of all that the contexts hold."""
        return hashlib.sha256(repr(self.contexts).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Sources:
    """Where suites come from.

    Attributes:
        datapath: ParlAI's data path.
        split: ``valid`` or ``test`` of every corpus that is cut.
        fold: of DiaSafety, 0 to 3.
        prosocial_sample: the bundled samples instead of ProsocialDialog and MIC.
        mic_data: file or folder of MIC; None for the data path's.
        persona_chat: a file of Synthetic-Persona-Chat, for ``casual_out``.
        utterances: a file of first utterances with their safety labels, for ``first_utterances``.
        convabuse: a file of ConvAbuse.
    """

    datapath: str
    split: str = "test"
    fold: int = 0
    prosocial_sample: bool = False
    mic_data: str | None = None
    persona_chat: str | None = None
    utterances: str | None = None
    convabuse: str | None = None


def suite_names(asked: Sequence[str], sources: Sources) -> list[str]:
    """The suites that some names stand for, each once: ``all`` is replaced by its parts.

    >>> suite_names(["mic", "all"], Sources(""))
    ['mic', 'adversarial', 'casual', 'safe_but_scary', 'prosocial']
    """
    names: list[str] = []
    for name in asked:
        names += (
            [*ALL, *(n for n, s in OF_FILES.items() if getattr(sources, s))]
            if name == "all"
            else [name]
        )
    return list(dict.fromkeys(names))


def about(name: str) -> str:
    """What one of :data:`NAMES` is: the first sentence of its file."""
    return _described(name)["about"].partition(". ")[0].rstrip(".")


def load_suite(name: str, sources: Sources) -> Suite:
    """Read a suite by one of :data:`NAMES`, or a file of own data.

    Raises:
        UserError: neither; or its corpus is not there, has a bad row or nothing of the split.
    """
    is_own = name not in NAMES
    if is_own and not Path(name).expanduser().exists():
        raise UserError(
            f"--suite {name}: neither a file nor a suite; there are all, {', '.join(NAMES)}"
            + did_you_mean(name, ["all", *NAMES])
        )
    description = _described("own" if is_own else name)
    axes = description["axes"]
    contexts = [
        SuiteContext(**fields, axes=tuple(axes.get(fields["label"], axes.get("*", ()))))
        for fields in _fields(description, name, sources)
    ]
    return Suite(name, description["about"], contexts, description.get("greedy", False))


def _described(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def _fields(description: dict[str, Any], name: str, sources: Sources) -> Iterator[dict[str, Any]]:
    """The fields of each :class:`SuiteContext` but its axes."""
    corpus = description["corpus"]
    if corpus == "diasafety":
        return _diasafety(sources)
    if corpus == "self_dialogue":
        dialogues = self_dialogue.load_dialogues(sources.datapath, sources.split)
        return _casual(corpus, dialogues, description["replies_per_dialogue"])
    if corpus == "persona_chat":
        file = _given(
            name,
            sources.persona_chat,
            "a file of Synthetic-Persona-Chat with --persona-chat "
            "(https://github.com/google-research-datasets/Synthetic-Persona-Chat, CC BY 4.0)",
        )
        dialogues = persona_chat.load_dialogues(file, sources.datapath)
        return _casual(corpus, dialogues, description["replies_per_dialogue"])
    if corpus == "utterances":
        what = "a file with columns context and safety_label with --utterances"
        file = _given(name, sources.utterances, what)
        return _utterances(prosocial_dialog.load_utterances(file, sources.datapath))
    if corpus == "convabuse":
        what = (
            "a CSV file of ConvAbuse with --convabuse "
            "(https://github.com/amandacurry/convabuse, CC BY 4.0)"
        )
        file = _given(name, sources.convabuse, what)
        return _convabuse(convabuse.load_contexts(file, sources.datapath))
    if corpus == "pairs":
        return _pairs(FOLDER / description["file"])
    if corpus == "prosocial_dialog":
        rows = prosocial_dialog.load_rows(
            sources.datapath, sources.split, sample=sources.prosocial_sample
        )
        return _of_examples(prosocial_dialog.contrastive_examples(rows))
    if corpus == "own":
        return _of_examples(own.contrastive_examples(_own_rows(name, sources)))
    annotations = mic.load_rows(
        sources.datapath, sources.split, source=sources.mic_data, sample=sources.prosocial_sample
    )
    if corpus == "mic":
        return _of_examples(mic.contrastive_examples(annotations))
    return _mic_attributes(annotations)


def _given(name: str, file: str | None, what: str) -> str:
    if file is None:
        raise UserError(f"--suite {name}: give {what}")
    return file


def _diasafety(sources: Sources) -> Iterator[dict[str, Any]]:
    rows = diasafety.load_rows(sources.datapath, sources.split, fold=sources.fold)
    for context in contexts_with_replies(rows):
        if context.unsafe:
            yield {
                "id": f"diasafety:{digest(context.group)}",
                "turns": (context.context,),
                "label": context.category,
                "kind": "",
                "source": "diasafety",
                "cluster": context.group,
                "fitting": tuple(context.safe),
                "unfit": tuple(context.unsafe),
            }


def _casual(source: str, dialogues: list[dict], count: int) -> Iterator[dict[str, Any]]:
    for dialogue in dialogues:
        for number, reply in enumerate(casual_replies([dialogue], count)):
            yield {
                "id": f"{source}:{dialogue['id']}:{number}",
                "turns": tuple(reply.context),
                "label": CASUAL,
                "kind": "",
                "source": source,
                "cluster": f"{source}:{dialogue['id']}",
                "fitting": (reply.response,),
            }


def _utterances(labels: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for utterance, label in labels.items():
        key = digest(normalise_text(utterance))
        yield {
            "id": f"utterance:{key}",
            "turns": (utterance,),
            "label": label,
            "kind": "",
            "source": "prosocial_dialog",
            "cluster": key,
        }


def _convabuse(contexts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for context in contexts:
        yield {
            "id": f"convabuse:{context['id']}",
            "turns": tuple(context["turns"]),
            "label": context["label"],
            "kind": "",
            "source": "convabuse",
            "cluster": f"convabuse:{context['conversation']}",
        }


def _pairs(file: Path) -> Iterator[dict[str, Any]]:
    for line in text_lines(file):
        row = json.loads(line)
        for label, turns, ending in (
            ("safe", row["context"], ""),
            ("unsafe", row["twin"], ":twin"),
        ):
            yield {
                "id": row["id"] + ending,
                "turns": tuple(turns),
                "label": label,
                "kind": row["kind"],
                "source": "parlai-prosocial",
                "cluster": row["id"],
            }


def _of_examples(examples: Sequence[ContrastiveExample]) -> Iterator[dict[str, Any]]:
    """One context where several examples share it, with all their replies."""
    groups: dict[str, list[ContrastiveExample]] = {}
    for example in examples:
        groups.setdefault(normalise_text("\n".join(example.context)), []).append(example)
    for key, group in groups.items():
        first = group[0]
        fitting = {normalise_text(e.response): e.response for e in group}
        unfit = {normalise_text(n): n for e in group for n in e.negatives}
        disputed = fitting.keys() & unfit.keys()
        yield {
            "id": f"{first.source}:{digest(key)}",
            "turns": tuple(first.context),
            "label": first.safety_label or "",
            "kind": "",
            "source": first.source,
            "cluster": first.contrast_group,
            "fitting": tuple(reply for form, reply in fitting.items() if form not in disputed),
            "unfit": tuple(reply for form, reply in unfit.items() if form not in disputed),
        }


def _own_rows(file: str, sources: Sources) -> list[dict]:
    """The rows of the split, as training cuts them; said in the log where it was cut by a hash."""
    rows = own.load_rows(file, sources.datapath, sources.split)
    cut = sum(row["split"] is None for row in rows)
    if cut:
        logger.warning(
            "--suite %s: %d contexts are what training leaves for %s of rows without a split; a "
            'column split that says "%s" takes a row whole',
            file,
            cut,
            sources.split,
            sources.split,
        )
    return rows


def _mic_attributes(rows: Sequence[dict]) -> Iterator[dict[str, Any]]:
    for attribute in mic.ATTRIBUTES:
        seen = set()
        for row in rows:
            question = mic.attribute_question(row, attribute)
            if question is None:
                continue
            lines, labels = question
            key = f"{attribute}\n{normalise_text(' '.join(lines))}\n{sorted(labels)}"
            if key in seen:
                continue
            seen.add(key)
            yield {
                "id": f"{attribute}:{digest(key)}",
                "turns": tuple(map(one_line, lines)),
                "label": attribute,
                "kind": "",
                "source": "mic",
                "cluster": normalise_text(row["Q"]),
                "fitting": tuple(labels),
            }


def digest(text: str) -> str:
    """Short name of a text, the same in every run."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
