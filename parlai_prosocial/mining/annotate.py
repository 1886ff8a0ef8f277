"""``annotate`` from Python, which ``prosocial annotate`` calls: labels and rules of thumb.

::

    from parlai_prosocial import annotate

    annotated = annotate("self_dialogue", "zoo:prosocial/smollm2_135m_rot", "annotated.jsonl")
    print(annotated)
    annotated.to_pandas()
"""

from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.errors import UsageError, names_arguments
from parlai_prosocial.mining.results import WrittenRows
from parlai_prosocial.util.counting import counted
from parlai_prosocial.util.files import check_jsonl
from parlai_prosocial.util.writer import Writer

_NOT_RECORDED = ("out", "datapath", "concurrency", "engine")
"""Arguments that the output doesn't depend on; of the engine it is the one that is used."""

_same_names = names_arguments(
    [
        *("task", "rot_model", "out", "few_shot", "limit", "datatype", "concurrency", "engine"),
        "datapath",
    ],
    settings="set",
)


class Annotated(WrittenRows):
    """An annotated task; prints as the command does."""

    def __str__(self) -> str:
        summary = self.summary
        lines = [
            f"{self.out}: {counted(summary['turns'], 'turn')}, "
            f"{counted(summary['rots'], 'rule of thumb', 'rules of thumb')}; answers that "
            f"could not be read: {summary['parse_failures']}, missing: {summary['missing_answers']}"
        ]
        lines += [f"  {label}: {number}" for label, number in summary["labels"].items()]
        lines += [
            f"  {name.replace('_', ' ')}: {value if isinstance(value, int) else f'{value:.3g}'}"
            for name, value in summary.get("against_own", {}).items()
        ]
        lines += self._missing()
        lines.append(
            f"{summary['seconds']:.0f} s, {summary['turns_per_second']} turns/s; "
            f"more in {self.summary_file}"
        )
        return "\n".join(lines)


@_same_names
def annotate(
    task: str,
    rot_model: str,
    out: str | Path,
    *,
    few_shot: bool | None = None,
    limit: int | None = None,
    datatype: str = "train",
    settings: Sequence[str] = (),
    concurrency: int = 8,
    engine: str = "auto",
    datapath: str | None = None,
) -> Annotated:
    """Label every turn's need of caution, and write rules of thumb where it is not casual.

    Args:
        task: any ParlAI task; several with commas between.
        rot_model: checkpoint, backbone, or ``http://HOST:PORT/v1#NAME``.
        out: the JSON Lines file, with its summary beside it. If stopped, the same call resumes.
        few_shot: show the model examples first; None: unless it is a checkpoint.
        limit: most turns, evenly spread; None for all.
        datatype: split of the task, ``train``, ``valid`` or ``test``; the rows are of it too.
        settings: ``KEY=VALUE`` each, parlai flags of the task.
        concurrency: most calls to an address at a time.
        engine: what samples a model that lies here, as for :func:`~parlai_prosocial.mine`.
        datapath: ParlAI's own where None.

    Raises:
        UserError: an argument that makes no sense, a model or task that is not there, or ``out``
            of another call.
    """
    asked = {name: value for name, value in locals().items() if name not in _NOT_RECORDED}
    for name, count in (("limit", limit), ("concurrency", concurrency)):
        if count is not None and count < 1:
            raise UsageError(f"--{name} {count}: must be at least 1")
    check_jsonl(Path(out))
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.engine import as_begun, open_engine
    from parlai_prosocial.engines.reply_scores import MAX_CONTEXT_TOKENS
    from parlai_prosocial.mining.canary import (
        FEW_SHOT_CONTEXT_TOKENS,
        annotate_turns,
        read_few_shot,
    )
    from parlai_prosocial.mining.turns import task_turns, turns_sha256
    from parlai_prosocial.models.precision import computes_in_bf16
    from parlai_prosocial.util.batches import spread
    from parlai_prosocial.util.journal import begun_with
    from parlai_prosocial.zoo.resolve import Kind, find

    out, datapath = Path(out).expanduser(), find_datapath(datapath)
    turns = task_turns(task, datatype, datapath, settings)
    turns = [turns[i] for i in spread(len(turns), limit)]
    found = find(rot_model, "--rot-model", datapath)
    wants_examples = found.kind is not Kind.CHECKPOINT if few_shot is None else few_shot
    examples = read_few_shot() if wants_examples else None
    bf16 = computes_in_bf16(out)
    sampler = open_engine(
        rot_model,
        datapath,
        bf16,
        system_prompt=examples.system_prompt if examples else None,
        concurrency=concurrency,
        max_context_tokens=FEW_SHOT_CONTEXT_TOKENS if examples else MAX_CONTEXT_TOKENS,
        flag="--rot-model",
        engine=as_begun(engine, begun_with(out, "engine")),
    )
    record = {
        "precision": "bf16" if bf16 else "fp32",
        "engine": sampler.name,
        "examples": examples and [examples.system_prompt, *examples.turns],
        "turns_sha256": turns_sha256(turns),
        **asked,
    }
    with Writer(out, "--out"):
        return Annotated(out, annotate_turns(turns, sampler, examples, datatype, out, record))
