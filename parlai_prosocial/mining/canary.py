"""Safety labels and rules of thumb for every turn of a ParlAI task, in Canary's form.

Canary (Kim et al. 2022) writes a safety label, then the rules of thumb, a line each; the task
``prosocial:Canary`` trains on that. A model so trained is asked as it was trained. Any other is
shown examples (``data/bundled/canary_few_shot.txt``), which serves until one is at hand.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parlai_prosocial.data.annotation import Annotation, parse_annotation
from parlai_prosocial.data.example import CASUAL, SAFETY_LABELS
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.engines.engine import Engine
from parlai_prosocial.mining.few_shot import read_examples
from parlai_prosocial.mining.results import is_whole_chunk, missing_reasons
from parlai_prosocial.mining.turns import Turn
from parlai_prosocial.util.batches import chunked
from parlai_prosocial.util.journal import Journal, finished_before, summary_path, write_output

CHUNK = 32
MAX_TOKENS = 96
FEW_SHOT_FILE = bundled("canary_few_shot.txt")
FEW_SHOT_CONTEXT_TOKENS = 1024
"""Room for the examples and a conversation of usual length."""


@dataclass(frozen=True)
class FewShot:
    """The examples of :data:`FEW_SHOT_FILE`.

    Attributes:
        system_prompt: the task.
        turns: conversation, answer, conversation, answer..., each on one line.
    """

    system_prompt: str
    turns: list[str]

    def context(self, text: str) -> str:
        """A newline-packed context as the chat's next question, newline-packed with the rest."""
        return "\n".join([*self.turns, _conversation(text.split("\n"))])


def read_few_shot() -> FewShot:
    """Read the bundled examples."""
    examples = read_examples(FEW_SHOT_FILE)
    return FewShot(
        system_prompt=examples.system_prompt,
        turns=[
            _conversation(body) if kind == "conversation" else " ".join(body)
            for kind, body in examples.turns
        ],
    )


def _conversation(turns: Sequence[str]) -> str:
    return "Conversation: " + " / ".join(turns)


def annotate_turns(
    turns: Sequence[Turn],
    engine: Engine,
    few_shot: FewShot | None,
    split: str,
    out: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Annotate every turn, write ``out`` and its summary; an interrupted run resumes.

    Args:
        turns: of a task.
        engine: answers greedily.
        few_shot: the examples to show it, None for a model trained on ``prosocial:Canary``.
        split: of the turns, written into every row.
        out: the JSON Lines file of ``data/own.py``'s format, a row a turn. A turn whose answer was
            missing or could not be read has no label and no rule of thumb.
        settings: all that the result depends on.

    Returns:
        The summary; where the task has labels and rules of thumb of its own, with agreement.

    Raises:
        UserError: ``out`` is from another run.
    """
    if finished_before(out, settings):
        return json.loads(summary_path(out).read_text(encoding="utf-8"))
    texts = [few_shot.context(turn.text) if few_shot else turn.text for turn in turns]
    chunks = chunked(texts, CHUNK)
    journal = Journal(out, settings, is_whole_chunk("answers", chunks))
    with tqdm(total=len(turns), desc="annotating", unit="turn") as bar:
        bar.update(sum(len(chunks[number]) for number in journal.chunks))
        bar.unpause()
        for number, chunk in enumerate(chunks):
            if number in journal.chunks:
                continue
            started, missed = time.monotonic(), Counter(engine.missing)
            replies = engine.sample([texts[i] for i in chunk], 1, MAX_TOKENS, 0, temperature=0.0)
            texts_said = [None if reply is None else reply.text for [reply] in replies]
            seconds = time.monotonic() - started
            content: dict[str, Any] = {"seconds": seconds, "answers": texts_said}
            if missing := engine.missing - missed:
                content["missing"] = missing
            journal.add(number, content)
            bar.update(len(chunk))
    answers: list[str | None] = [None] * len(turns)
    for number, chunk in enumerate(chunks):
        for i, answer in zip(chunk, journal.chunks[number]["answers"], strict=True):
            answers[i] = answer
    annotations = [None if answer is None else parse_annotation(answer) for answer in answers]
    seconds = sum(content["seconds"] for content in journal.chunks.values())
    missing_found = missing_reasons(journal)
    summary = {
        "settings": settings,
        **_counts(answers, annotations),
        **({"missing": missing_found} if missing_found else {}),
        **agreement(turns, annotations),
        "seconds": round(seconds, 1),
        "turns_per_second": round(len(turns) / max(seconds, 1e-9), 2),
    }
    write_output(out, [_row(t, a, split) for t, a in zip(turns, annotations, strict=True)], summary)
    journal.remove()
    return summary


def _row(turn: Turn, annotation: Annotation | None, split: str) -> dict:
    return {
        "context": list(turn.context),
        "response": turn.labels[0],
        "rots": annotation.rots if annotation else [],
        "safety_label": annotation.safety_label if annotation else None,
        "contrast_group": turn.contrast_group or None,
        "source": turn.source,
        "split": split,
    }


def _counts(
    answers: Sequence[str | None], annotations: Sequence[Annotation | None]
) -> dict[str, Any]:
    read = [annotation for annotation in annotations if annotation is not None]
    labels = [annotation.safety_label for annotation in read]
    missing = sum(answer is None for answer in answers)
    return {
        "turns": len(answers),
        "missing_answers": missing,
        "parse_failures": len(answers) - missing - len(read),
        "labels": {label: labels.count(label) for label in SAFETY_LABELS},
        "not_casual_without_rot": sum(a.safety_label != CASUAL and not a.rots for a in read),
        "rots": sum(len(a.rots) for a in read),
    }


def agreement(
    turns: Sequence[Turn], annotations: Sequence[Annotation | None]
) -> dict[str, dict[str, float]]:
    """How the annotations agree with the task's own labels and rules of thumb, where it has any.

    Returns:
        ``against_own``: share 0..1 of equal labels (of five, and casual or not) over the turns
        with a label, where no label counts as wrong, if they are not all the same; ParlAI's
        BLEU-4 and F1 of the first rule of thumb against those of the turn (the best of them), over
        the turns with one, where none counts 0. Empty for a task with neither.
    """
    from parlai.core.metrics import BleuMetric, F1Metric

    labelled = [(t, a) for t, a in zip(turns, annotations, strict=True) if t.safety_label]
    with_rots = [(t, a) for t, a in zip(turns, annotations, strict=True) if t.rots]
    found: dict[str, float] = {}
    if labelled:
        found["labelled_turns"] = len(labelled)
    labels = {t.safety_label for t, _ in labelled}
    if len(labels) > 1:  # of one label alone, whoever always says it is right
        found["label_accuracy"] = sum(
            a is not None and a.safety_label == t.safety_label for t, a in labelled
        ) / len(labelled)
    if len(labels) > 1 and CASUAL in labels:
        found["casual_accuracy"] = sum(
            a is not None and (a.safety_label == CASUAL) == (t.safety_label == CASUAL)
            for t, a in labelled
        ) / len(labelled)
    if with_rots:
        guesses = [a.rots[0] if a and a.rots else "" for _, a in with_rots]
        scores = [
            (BleuMetric.compute(guess, list(t.rots), 4), F1Metric.compute(guess, list(t.rots)))
            for guess, (t, _) in zip(guesses, with_rots, strict=True)
        ]
        found["turns_with_rots"] = len(with_rots)
        found["rots_written"] = sum(map(bool, guesses))
        found["rot_bleu4"] = sum(float(b.value()) if b else 0.0 for b, _ in scores) / len(scores)
        found["rot_f1"] = sum(float(f.value()) for _, f in scores) / len(scores)
    return {"against_own": found} if found else {}
