"""The stages of a round: sampled, judged, paired, trained. Each leaves a file and is done once.

A stage that is finished is read, one that was stopped goes on; either gives the same bytes. So no
file tells seconds or places.
"""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from parlai_prosocial.compat.flags import parse_setting
from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.data.splits import short_digest
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.mining.chunks import work_in_chunks
from parlai_prosocial.mining.pairs import PairRule, pair_rows
from parlai_prosocial.mining.replies import (
    PREACHY,
    Record,
    judge_records,
    sample_scored_records,
)
from parlai_prosocial.mining.turns import Contexts, task_turns
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.models.checkpoint import Checkpoint
from parlai_prosocial.rounds.labelled import add_log_probs
from parlai_prosocial.training.recipe import RECIPES, StepResult, train_step
from parlai_prosocial.util.batches import spread
from parlai_prosocial.util.files import Say, file_sha256, text_lines
from parlai_prosocial.util.journal import finished_before, summary_path, write_output
from parlai_prosocial.zoo.resolve import Found, Kind, find

PRESET = RECIPES / "improve" / "round.opt"
OWN_FLAGS = {
    *("model-file", "mf", "init-model", "im", "backbone", "opt", "o", "init-opt"),
    *("prosocial-data", "datapath", "dp", "precision", "seed"),
}
"""Parlai flags that a round sets itself."""

Open = Callable[[], TransformersEngine]


def held_out(task: str, datapath: str, settings: Sequence[str], limit: int | None) -> Contexts:
    """The contexts of a task's ``valid`` that models are measured on.

    Args:
        task, datapath, settings: as for :func:`~parlai_prosocial.mining.turns.task_turns`.
        limit: most harmless contexts, and most others, each evenly spread; None for all. One limit
            for both would leave few others where casual dialogue is the larger part.
    """
    every = Contexts(task_turns(task, "valid", datapath, settings))
    kinds = [[i for i, is_so in enumerate(every.casual) if is_so == kind] for kind in (False, True)]
    kept = sorted(of[i] for of in kinds for i in spread(len(of), limit))
    return Contexts([turn for i in kept for turn in every.turns[i]])


def find_start(model: str, datapath: str, flag: str = "--model") -> Found:
    """What can be trained further.

    Raises:
        UserError: there is no such model, or it is of another kind.
    """
    found = find(model, flag, datapath)
    if found.kind not in (Kind.CHECKPOINT, Kind.FOLDER):
        raise found.refused(f"is {found.kind}; give a model that -m prosocial can train further")
    return found


def weights_of(found: Found) -> str:
    """The hash of a model's own weights."""
    place = found.place
    folder = Checkpoint(str(place)).folder if found.kind is Kind.CHECKPOINT else place
    return weights_sha256(folder)


def training_arguments(
    start: Found,
    pairs: Path,
    out: Path,
    datapath: str,
    precision: str,
    seed: int,
    settings: Sequence[str],
    preset: Path = PRESET,
) -> list[str]:
    """Arguments of ``parlai train_model`` for a round.

    Args:
        start: the model that the round starts from.
        pairs: the round's own data.
        out: folder of the result.
        datapath, precision, seed: ParlAI's flags.
        settings: ``key=value`` of further flags.
        preset: the options that they change.

    Raises:
        UserError: a setting without ``=``, or of a flag that a round sets itself.
    """
    continues = start.kind is Kind.CHECKPOINT
    arguments = ["-o", str(preset), "-mf", str(out / "model")]
    arguments += ["--init-model", str(start.place)] if continues else ["--backbone", start.name]
    arguments += ["--prosocial-data", str(pairs), "--datapath", datapath]
    arguments += ["--precision", precision, "--seed", str(seed)]
    for setting in settings:
        key, value = parse_setting(setting)
        if key in OWN_FLAGS:
            raise UserError(f"--set {setting}: this command sets --{key} itself; leave it")
        arguments += ["--" + key, value]
    return arguments


def context_tokens(arguments: Sequence[str]) -> int:
    """The longest context of a round with these arguments, which are all checked.

    Raises:
        UserError: a flag that parlai does not know, or a wrong value.
    """
    from parlai.scripts.train_model import TrainModel

    from parlai_prosocial.compat.flags import check_flags

    return int(check_flags(TrainModel.setup_args(), arguments)["text_truncate"])


def sampled(
    file: Path,
    contexts: Contexts,
    open_engine: Open,
    n: int,
    settings: Mapping[str, Any],
    decoding: Mapping[str, Any],
) -> list[list[Record]]:
    """Sample n scored replies to each context.

    Args:
        file: where to keep them, a line a context.
        contexts: N contexts.
        open_engine: opens the model; not called where the stage is finished.
        n: replies a context.
        settings: of the model, for telling runs apart.
        decoding: ``max_tokens``, ``seed``, ``temperature`` and ``top_p``.

    Returns:
        N lists of n records.
    """
    asked = {
        "contexts_sha256": contexts.sha256(),
        "samples": n,
        **settings,
        **decoding,
    }
    if not finished_before(file, asked):
        engine = open_engine()

        def work(chunk: list[int]) -> list[list[Record]]:
            return sample_scored_records(engine, [contexts.texts[i] for i in chunk], n, **decoding)

        done = work_in_chunks(
            file, asked, contexts.texts, work, lambda: +engine.missing, f"sampling {file.parent}"
        )
        _write(file, contexts, done.records, asked, done.missing)
        done.journal.remove()
    return _read(file)


def judges_of(unsafe: Judge, preachy: Judge, answers: Judge | None) -> dict[str, Judge]:
    """Kind of fault -> who judges it; nobody is asked for answers where that is None."""
    more = {} if answers is None else {UNRESPONSIVE: answers}
    return {UNSAFE: unsafe, PREACHY: preachy, **more}


def check_answers(spec: str, name: str, others: Sequence[str]) -> None:
    """Raise UserError where the judge ``name`` of answers is one of the ``others``, of safety."""
    if name in others:
        raise UserError(
            f"--answer-judge {spec}: is a judge of what is unsafe here; give one that was trained "
            "with --labels-axis unresponsive"
        )


def judged(
    file: Path, source: Path, contexts: Contexts, judges: Mapping[str, Judge]
) -> list[list[Record]]:
    """Judge replies: of each kind of fault everywhere, but of preaching in casual contexts.

    Nobody is asked what a label says already.

    Args:
        file: where to keep the judged records.
        source: the file of :func:`sampled` or :func:`labelled`.
        contexts: its contexts.
        judges: of each kind of fault.
    """
    asked = {
        "judges": {kind: judge.name for kind, judge in judges.items()},
        "sampled_sha256": file_sha256(source),
    }
    if not finished_before(file, asked):
        given = _read(source)

        def work(chunk: list[int]) -> list[list[Record]]:
            found = [(i, record) for i in chunk for record in given[i]]
            for kind, judge in judges.items():
                asked_of = [
                    (i, r)
                    for i, r in found
                    if kind not in r and (kind != PREACHY or contexts.casual[i])
                ]
                judge_records(judge, kind, [(contexts.texts[i], r) for i, r in asked_of])
            return [given[i] for i in chunk]

        done = work_in_chunks(
            file,
            asked,
            contexts.texts,
            work,
            lambda: sum((judge.missing for judge in judges.values()), Counter()),
            f"judging {file.parent}",
        )
        _write(file, contexts, done.records, asked, done.missing)
        done.journal.remove()
    return _read(file)


def labelled(
    file: Path,
    contexts: Contexts,
    records: list[list[Record]],
    open_engine: Open,
    settings: Mapping[str, Any],
) -> None:
    """Score labelled replies by the model that the round starts from.

    Args:
        file: where to keep them, a line a context.
        contexts: N contexts.
        records: N lists of records, of :func:`~.labelled.records_of`.
        open_engine: opens the model; not called where the stage is finished.
        settings: of the model, for telling runs apart.
    """
    asked = {
        "contexts_sha256": contexts.sha256(),
        "records": short_digest(json.dumps(records)),
        **settings,
    }
    if not finished_before(file, asked):
        add_log_probs(open_engine(), contexts, records)
        _write(file, contexts, records, asked, {})


def paired(
    file: Path,
    sources: Sequence[Path],
    contexts: Contexts,
    rule: PairRule,
    judges: Mapping[str, str],
) -> dict[str, Any]:
    """Write pairs as own data of the split ``train``; returns the counts.

    Args:
        file: where to.
        sources: files of judged or labelled replies to the contexts, which are joined.
        contexts: their contexts.
        rule: the thresholds.
        judges: the judge's name of each kind of negative.
    """
    asked = {"rule": asdict(rule), "judged_sha256": [file_sha256(source) for source in sources]}
    if not finished_before(file, asked):
        parts = [_read(source) for source in sources]
        records = [list(chain.from_iterable(found)) for found in zip(*parts, strict=True)]
        rows, summary = pair_rows(contexts, records, rule, judges, "train")
        write_output(file, rows, {"settings": asked, **summary})
    summary = json.loads(summary_path(file).read_text("utf-8"))
    del summary["settings"]
    return summary


def trained(arguments: list[str], title: str, out: Path, say: Say) -> StepResult:
    """Train a round, or go on with its training; says the stock command that does the same."""
    say("The same by hand:\n  " + shlex.join(["parlai", "train_model", *arguments]))
    return train_step(arguments, title, out, say)


def _write(
    file: Path,
    contexts: Contexts,
    records: Sequence[Sequence[Record]],
    settings: Mapping[str, Any],
    missing: Mapping[str, int],
) -> None:
    rows = [
        {"context": list(turns[0].context), "casual": casual, "replies": found}
        for turns, casual, found in zip(contexts.turns, contexts.casual, records, strict=True)
    ]
    write_output(file, rows, {"settings": settings, "missing": missing})


def _read(file: Path) -> list[list[Record]]:
    return [json.loads(line)["replies"] for line in text_lines(file)]
