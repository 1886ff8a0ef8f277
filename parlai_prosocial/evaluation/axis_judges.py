"""Who judges what: opening the judges of each axis, and asking them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parlai_prosocial.compat.pickles import read_options
from parlai_prosocial.data import own
from parlai_prosocial.data.labelled import AGREEMENT, AXES, OVER_CAUTION, UNSAFE
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.answers import Answers
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.rules import AgreementRules, PreachyRules
from parlai_prosocial.zoo.resolve import find

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AxisJudge:
    """Who judges an axis.

    Attributes:
        axis: one of :data:`~parlai_prosocial.data.labelled.AXES`.
        judge: ``p_unsafe`` is its probability of what the axis is about.
        spec: the flag's value; None for the rules that ship with us.
        options: what else its judgements depend on.
    """

    axis: str
    judge: Judge
    spec: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def open_judges(
    specs: Sequence[str],
    mined: Mapping[str, str],
    datapath: str,
    bf16: bool,
    unsafe_label: str | None,
    reply_only: bool,
) -> list[AxisJudge]:
    """The rules of agreement and over-caution, and the judges that flags name.

    Args:
        specs: ``[AXIS=]KIND:WHERE`` each; the axis is unsafe where it is not given.
        mined: judge's name -> a model that was trained on what it mined. Rules among them are left
            out, and said so.
        datapath, bf16, unsafe_label, reply_only: as for ``open_judge``.

    Raises:
        UserError: no such judge; the same twice; or it has mined.
    """
    options = {"unsafe_label": unsafe_label, "reply_only": reply_only, "bf16": bf16}
    judges = []
    for spec in specs:
        axis, separator, where = spec.partition("=")
        if not separator or ":" in axis:
            axis, where = UNSAFE, spec
        if axis not in AXES:
            raise UserError(f"--judge {spec}: no axis {axis}; there are {', '.join(AXES)}")
        judge = open_judge(where, datapath, bf16, unsafe_label, reply_only)
        if judge.name in mined:
            raise UserError(
                f"--judge {spec}: it mined data that {mined[judge.name]} was trained on, so it "
                "cannot score it; give another judge, or --allow-mining-judge"
            )
        judges.append(AxisJudge(axis, judge, spec, options))
    names = [(judge.axis, judge.judge.name) for judge in judges]
    if len(set(names)) < len(names):
        raise UserError("--judge: the same one twice; give each once")
    for axis, rules in ((AGREEMENT, AgreementRules()), (OVER_CAUTION, PreachyRules())):
        if rules.name in mined:
            logger.warning(
                "%s: our rules mined data that %s was trained on, so they do not score here; give "
                "--judge %s=KIND:WHERE, or --allow-mining-judge",
                axis,
                mined[rules.name],
                axis,
            )
        else:
            judges.append(AxisJudge(axis, rules))
    return judges


def mined_by(models: Iterable[str], datapath: str) -> dict[str, str]:
    """Judge's name -> a model trained on data that it mined, as far as checkpoints tell.

    A checkpoint's ``.opt`` names its ``--prosocial-data`` and what it was initialised from. That
    data is read as training reads it: a file, a folder, or a data set on the hub. Of other models
    nothing is known; nor where the data is gone, which is logged.
    """
    found: dict[str, str] = {}
    for model in models:
        step: str | None = model
        seen: set[str] = set()
        while step and step not in seen and (options := _options(step, datapath)).is_file():
            seen.add(step)
            opt = read_options(options)
            for name in _judges_of(opt, model, datapath):
                found.setdefault(name, model)
            step = opt.get("init_model")
    return found


def _options(model: str, datapath: str) -> Path:
    if model.startswith("zoo:"):
        model = str(find(model, "--model", datapath).place)
    return Path(f"{model}.opt").expanduser()


def _judges_of(opt: Mapping[str, Any], model: str, datapath: str) -> set[str]:
    data = opt.get("prosocial_data")
    if not data:
        return set()
    try:
        rows = own.load_rows(data, datapath, "train", bool(opt.get("skip_bad_rows")))
    except UserError as error:
        logger.warning(
            "--prosocial-data %s, which %s was trained on, cannot be read, so nobody knows which "
            "judges mined it: %s",
            data,
            model,
            error,
        )
        return set()
    return own.mining_judges(rows)


def judge_records(
    answers: Answers, judge: AxisJudge, records: Mapping[str, Mapping[str, list[dict[str, Any]]]]
) -> None:
    """Write what a judge says into the records (suite -> model -> records) of its axis."""
    concerned = [
        record
        for models in records.values()
        for own_records in models.values()
        for record in own_records
        if judge.axis in record["axes"]
    ]
    answered = [record for record in concerned if record["reply"] is not None]
    judgements = answers.judgements(
        judge.judge,
        judge.options,
        ["\n".join(record["context"]) for record in answered],
        [record["reply"] for record in answered],
    )
    for record in concerned:
        record["judgements"].setdefault(judge.axis, {})[judge.judge.name] = None
    for record, judgement in zip(answered, judgements, strict=True):
        record["judgements"][judge.axis][judge.judge.name] = judgement
