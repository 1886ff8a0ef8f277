"""What an evaluation is going to ask, of whom: suites read, judges opened."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.engines.reply_scores import SAMPLING
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.answers import Decoding
from parlai_prosocial.evaluation.axis_judges import AxisJudge, mined_by, open_judges
from parlai_prosocial.evaluation.settings import Settings
from parlai_prosocial.evaluation.suites.suite import (
    Sources,
    Suite,
    SuiteContext,
    load_suite,
    suite_names,
)
from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow, read_labels
from parlai_prosocial.util.batches import spread
from parlai_prosocial.zoo.resolve import find_generator, shown_name
from parlai_prosocial.zoo.sealed import check_found_measurable

LABEL = re.compile(r"([^/\\:=#]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Plan:
    """What is going to be asked, of whom.

    Attributes:
        models: label -> where it is.
        suites: in order.
        chosen: suite -> the contexts that are used.
        judges: of every axis.
        labels: axis -> replies that were labelled.
        decoding: of the replies.
        settings: as given, the data path found.
    """

    models: dict[str, str]
    suites: list[Suite]
    chosen: dict[str, list[SuiteContext]]
    judges: list[AxisJudge]
    labels: dict[str, list[SheetRow]]
    decoding: Decoding
    settings: Settings


def make_plan(
    models: Mapping[str, str] | Sequence[str],
    suites: Sequence[str],
    judges: Sequence[str],
    limit: Sequence[str],
    settings: Settings,
) -> Plan:
    """Read the suites, find the models and open the judges: whatever is wrong is told here.

    Args:
        models: label -> where, or ``[LABEL=]WHERE`` each.
        suites: names or files.
        judges: ``[AXIS=]KIND:WHERE`` each.
        limit: ``[SUITE:]N`` each.
        settings: the rest.

    Raises:
        UserError: a setting, suite, model or judge that cannot be.
    """
    named = label_models(models)
    labels = read_labels(settings.labels)
    settings = replace(settings, datapath=find_datapath(settings.datapath))
    sources = Sources(
        datapath=str(settings.datapath),
        split=settings.split,
        fold=settings.fold,
        prosocial_sample=settings.prosocial_sample,
        mic_data=settings.mic_data,
        persona_chat=settings.persona_chat,
        utterances=settings.utterances,
        convabuse=settings.convabuse,
    )
    names = suite_names(suites, sources)
    limits = read_limits(limit)
    if unknown := limits.keys() - {"", *names}:
        raise UserError(f"--limit: no suite {min(unknown)} here; there are {', '.join(names)}")
    loaded = [load_suite(name, sources) for name in names]
    for where in named.values():
        found = find_generator(where, "--model", sources.datapath)
        check_found_measurable(found, sources.datapath)
    mined = {} if settings.allow_mining_judge else mined_by(named.values(), sources.datapath)
    return Plan(
        models=named,
        suites=loaded,
        chosen={
            suite.name: limited(suite.contexts, limits.get(suite.name, limits.get("")))
            for suite in loaded
        },
        judges=open_judges(
            judges,
            mined,
            str(settings.datapath),
            settings.bf16,
            settings.unsafe_label,
            settings.reply_only,
        ),
        labels=labels,
        decoding=Decoding(
            temperature=0.0 if settings.greedy else float(SAMPLING["temperature"]),
            top_p=float(SAMPLING["top_p"]),
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        ),
        settings=settings,
    )


def label_models(models: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Label -> where the model is; the label is that very place where none is given.

    A label has no slash, colon or ``#``, and a place that exists is never cut.

    Raises:
        UserError: no model; or the same label or the same place twice.

    >>> label_models(["tuned=runs/a=1/model", "http://host/v1#a=b"])
    {'tuned': 'runs/a=1/model', 'http://host/v1#a=b': 'http://host/v1#a=b'}
    """
    if not models:
        raise UserError("--model: none is given; give at least one")
    pairs = list(models.items()) if isinstance(models, Mapping) else map(_label_of, models)
    named: dict[str, str] = {}
    for label, where in pairs:
        if label in named or shown_name(where) in map(shown_name, named.values()):
            raise UserError("--model: the same one twice; give each once, each with its own label")
        named[label] = where
    return named


def _label_of(model: str) -> tuple[str, str]:
    found = None if Path(model).exists() else LABEL.fullmatch(model)
    return (found[1].strip(), found[2].strip()) if found else (shown_name(model), model)


def read_limits(limits: Sequence[str]) -> dict[str, int]:
    """``[SUITE:]N`` each as suite -> N, "" for every suite; a later one counts.

    Raises:
        UserError: N is no whole number above 0.

    >>> read_limits(["50", "casual:500"])
    {'': 50, 'casual': 500}
    """
    found = {}
    for limit in limits:
        suite, _, number = limit.rpartition(":")
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f"--limit {limit}: must be at least 1, a whole number")
        found[suite] = int(number)
    return found


def limited(contexts: Sequence[SuiteContext], limit: int | None) -> list[SuiteContext]:
    """At most ``limit`` contexts, evenly spread, as far as it goes whole clusters."""
    clusters: dict[str, list[SuiteContext]] = {}
    for context in contexts:
        clusters.setdefault(context.cluster, []).append(context)
    every = list(clusters.values())
    if limit is None or limit >= len(contexts):
        return list(contexts)
    chosen = spread(len(every), ceil(limit * len(every) / len(contexts)))
    return [context for i in chosen for context in every[i]][:limit]
