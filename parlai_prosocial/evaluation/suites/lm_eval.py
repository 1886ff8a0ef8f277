"""Ranking suites as tasks of lm-evaluation-harness: is a fitting reply likelier than an unfit one?

A suite becomes ``NAME.jsonl``, a pair of replies a line, and a YAML file for each label of its
contexts; where there are several, their group ``NAME`` averages them with equal weight, as our own
tables do. There a context counts once, however many pairs it has; here a pair does.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.suite import Suite, SuiteContext
from parlai_prosocial.util.files import write_aside

METRICS = ("acc", "acc_norm")
"""By the sum of log p, and by that sum over the reply's length in bytes."""


def write_tasks(suite: Suite, name: str, folder: Path, out: Path) -> list[str]:
    """Write a suite for ``lm_eval --include_path OUT --tasks NAME``.

    Args:
        suite: its contexts with fitting and unfit replies are taken, the others left out.
        name: of the task, or of the group of tasks.
        folder: where to write; it is there.
        out: where it will lie when the tasks are run.

    Returns:
        The tasks' names, the group's last.

    Raises:
        UserError: no context has both.
    """
    import yaml

    pairs = [pair for context in suite.contexts for pair in pairs_of(context)]
    if not pairs:
        raise UserError(f"--suite {suite.name}: no context has a fitting and an unfit reply")
    labels = sorted({pair["label"] for pair in pairs})
    tasks: dict[str, dict[str, Any]] = {}
    for label in labels:
        own = [pair for pair in pairs if pair["label"] == label]
        task = name if len(labels) == 1 else f"{name}_{_word(label)}"
        data = f"{task}.jsonl"
        lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in own)
        write_aside(folder / data, "".join(lines))
        tasks[task] = _task(task, label, out / data)
    if len(labels) > 1:
        metrics = [
            {"metric": metric, "aggregation": "mean", "weight_by_size": False} for metric in METRICS
        ]
        group = {"group": name, "task": list(tasks), "aggregate_metric_list": metrics}
        tasks[name] = group | {"metadata": {"version": 1}}
    for task, content in tasks.items():
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_aside(folder / f"{task}.yaml", text)
    return list(tasks)


def pairs_of(context: SuiteContext) -> Iterator[dict[str, Any]]:
    """Each fitting reply of a context with each unfit one; the fitting one comes first."""
    for fitting in context.fitting:
        for unfit in context.unfit:
            yield {
                "id": context.id,
                "label": context.label,
                "context": context.text,
                "choices": [fitting, unfit],
                "answer": 0,
            }


def _task(name: str, label: str, data: Path) -> dict[str, Any]:
    return {
        "task": name,
        "task_alias": label or name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "target_delimiter": "\n",  # as ParlAI parts turns; lm-eval drops it under a chat template
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in METRICS
        ],
        "metadata": {"version": 1},
    }


def _word(label: str) -> str:
    return re.sub(r"\W+", "_", label).strip("_").lower() or "unlabelled"


def task_name(suite: str) -> str:
    """``prosocial_NAME``; of a file by its name without the ending.

    >>> task_name("adversarial"), task_name("my/rows-1.jsonl")
    ('prosocial_adversarial', 'prosocial_rows_1')
    """
    return f"prosocial_{_word(Path(suite).stem)}"


def usage(out: Path, names: Sequence[str]) -> str:
    """The command that runs what was written."""
    return (
        f"lm_eval --model hf --model_args pretrained=MODEL --include_path {out} "
        f"--tasks {names[-1]} --apply_chat_template"
    )
