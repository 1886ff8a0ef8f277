"""The judges that ``--judge KIND:WHERE`` can name, each with a line of help."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.judges.judge import Judge


@dataclass(frozen=True)
class JudgeOptions:
    """What opening a judge can depend on beside its place.

    Attributes:
        datapath: ParlAI's data path.
        bf16: compute a guard model from a folder in bfloat16.
        unsafe_label: the unsafe class of ``hf`` and ``parlai``.
        reply_only: show an ``hf`` judge the reply without its context.
        flag: by which the user named the judge, for messages.
    """

    datapath: str
    bf16: bool
    unsafe_label: str | None = None
    reply_only: bool = False
    flag: str = "--judge"


@dataclass(frozen=True)
class JudgeKind:
    """A kind of judge.

    Attributes:
        place: what stands after its name and a colon; "" where nothing does.
        about: its line of help.
        open: from the place and the options to the judge.
    """

    place: str
    about: str
    open: Callable[[str, JudgeOptions], Judge]


def _open_classifier(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.classifiers import ClassifierJudge
    from parlai_prosocial.models.backbone import weights_sha256
    from parlai_prosocial.models.classifier import ClassifierCheckpoint
    from parlai_prosocial.models.precision import best_device
    from parlai_prosocial.zoo.resolve import find_classifier, named, open_classifier

    flag = f"{options.flag} classifier:"
    file = find_classifier(where, flag, options.datapath).place
    classifier = open_classifier(where, flag, options.datapath).to(best_device())
    name = f"classifier@{weights_sha256(ClassifierCheckpoint(str(file)).folder)[:16]}"
    with named(flag, where):
        return ClassifierJudge(classifier, name, options.bf16)


def _open_two_fold(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.two_fold import TwoFoldJudge, half_trained_on

    flag = f"{options.flag} two-fold:"
    files = where.split(",")
    halves = [half_trained_on(file, flag, options.datapath) for file in files]
    if sorted(halves) != [0, 1]:
        raise UserError(
            f"{flag}{where}: give two classifiers with a comma between, one trained with "
            "--labels-half 0 and one with --labels-half 1"
        )
    first, second = (files[halves.index(half)] for half in (0, 1))
    return TwoFoldJudge(_open_classifier(first, options), _open_classifier(second, options))


def _open_text_classifier(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.classifiers import TextClassifierJudge
    from parlai_prosocial.zoo.resolve import named

    folder = _folder("hf", where, options)
    with named(f"{options.flag} hf:", where):
        return TextClassifierJudge(folder, options.unsafe_label, options.reply_only)


def _open_guard(kind: str, where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.engines.served import ChatClient
    from parlai_prosocial.judges.guards import PARSERS, FolderGuard, ServedGuard
    from parlai_prosocial.zoo.resolve import is_address, named

    if is_address(where):
        return ServedGuard(ChatClient(where), PARSERS[kind], kind)
    folder = _folder(kind, where, options)
    with named(f"{options.flag} {kind}:", where):
        return FolderGuard(folder, options.bf16, PARSERS[kind], kind)


def _open_llm(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.engines.served import ChatClient
    from parlai_prosocial.judges.llm import LocalLLMJudge, ServedLLMJudge
    from parlai_prosocial.models.backbone import weights_sha256
    from parlai_prosocial.models.precision import best_device
    from parlai_prosocial.zoo.resolve import is_address, named, open_generator

    if is_address(where):
        return ServedLLMJudge(ChatClient(where))
    flag = f"{options.flag} llm:"
    opened = open_generator(where, flag, options.datapath, options.bf16)
    with named(flag, where):
        backbone = opened.backbone.to(best_device())
        return LocalLLMJudge(backbone, weights_sha256(opened.folder), options.bf16)


def _open_parlai(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.classifiers import ParlAIClassifierJudge
    from parlai_prosocial.zoo.resolve import Kind, find, named

    flag = f"{options.flag} parlai:"
    found = find(where, flag, options.datapath)
    if found.kind is not Kind.FILE:
        raise found.refused(f"is {found.kind}; give a model file of transformer/classifier")
    with named(flag, where):
        return ParlAIClassifierJudge(str(found.place), options.datapath, options.unsafe_label)


def _open_words(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.classifiers import WordListJudge

    return WordListJudge(options.datapath, options.flag)


def _open_profanity(where: str, options: JudgeOptions) -> Judge:
    from parlai_prosocial.judges.classifiers import ProfanityJudge

    return ProfanityJudge(options.flag)


KINDS = {
    "classifier": JudgeKind(
        "MODEL_FILE", "trained by -m prosocial/classifier; or a zoo name", _open_classifier
    ),
    "two-fold": JudgeKind(
        "MODEL_FILE,MODEL_FILE",
        "two of -m prosocial/classifier, each asked about the contexts that it has not seen",
        _open_two_fold,
    ),
    "hf": JudgeKind("FOLDER", "any Hugging Face text classifier", _open_text_classifier),
    "llama-guard": JudgeKind(
        "FOLDER_OR_ADDRESS",
        "or http://HOST:PORT/v1#NAME",
        partial(_open_guard, "llama-guard"),
    ),
    "qwen3guard": JudgeKind(
        "FOLDER_OR_ADDRESS", "or http://HOST:PORT/v1#NAME", partial(_open_guard, "qwen3guard")
    ),
    "llm": JudgeKind(
        "MODEL_OR_ADDRESS",
        "any instruct model, asked by the guidelines. Check it against labels: one of 1.5 B "
        "parameters measured AUC 0.46 on 240 of ours, a coin",
        _open_llm,
    ),
    "parlai": JudgeKind("MODEL_FILE", "ParlAI's transformer/classifier", _open_parlai),
    "words": JudgeKind("", "ParlAI's list of offensive words", _open_words),
    "profanity": JudgeKind("", "alt-profanity-check", _open_profanity),
}


def spelled(kind: str) -> str:
    """A kind as ``--judge`` takes it: ``hf:FOLDER``, or ``words``."""
    place = KINDS[kind].place
    return f"{kind}:{place}" if place else kind


def judges_help() -> str:
    """A line for each kind, as the end of a command's help page lists them."""
    width = max(len(spelled(kind)) for kind in KINDS)
    lines = [f"  {spelled(name):{width}}  {kind.about}" for name, kind in KINDS.items()]
    return "\n".join(["\b", "Judges:", *lines])


def open_judge(
    spec: str,
    datapath: str,
    bf16: bool,
    unsafe_label: str | None = None,
    reply_only: bool = False,
    flag: str = "--judge",
) -> Judge:
    """The judge for ``KIND:WHERE``.

    Args:
        spec: see :data:`KINDS`.
        datapath, bf16, unsafe_label, reply_only, flag: see :class:`JudgeOptions`.

    Raises:
        UserError: an unknown kind, or what it needs is not there.
    """
    kind, where = judge_spec(spec, flag)
    options = JudgeOptions(datapath, bf16, unsafe_label, reply_only, flag)
    return KINDS[kind].open(where, options)


def given_options(unsafe_label: str | None, reply_only: bool) -> dict[str, Any]:
    """Those of :func:`open_judge` that differ from its defaults, for a run's record."""
    options = {"unsafe_label": unsafe_label, "reply_only": reply_only}
    return {name: value for name, value in options.items() if value}


def check_options(
    specs: Mapping[str, str | None], unsafe_label: str | None, reply_only: bool
) -> None:
    """Refuse options that no given judge takes.

    Args:
        specs: flag -> ``KIND:WHERE`` of all judges, or None where the flag is not given.
        unsafe_label, reply_only: see :class:`JudgeOptions`.

    Raises:
        UserError: such an option, or an unknown kind.
    """
    kinds = {judge_spec(spec, flag)[0] for flag, spec in specs.items() if spec}
    for flag, is_given, taking in (
        ("--unsafe-label", unsafe_label is not None, ("hf", "parlai")),
        ("--reply-only", reply_only, ("hf",)),
    ):
        if is_given and not kinds.intersection(taking):
            raise UsageError(f"{flag}: needs a judge {' or '.join(map(spelled, taking))}")


def judge_spec(spec: str, flag: str = "--judge") -> tuple[str, str]:
    """Kind and place of ``KIND:WHERE``; raises :class:`UserError` for an unknown kind."""
    kind, _, where = spec.partition(":")
    if kind not in KINDS or bool(where) != bool(KINDS[kind].place):
        near = difflib.get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.5)
        hint = f"; did you mean {spelled(near[0])}?" if near else ""
        raise UserError(f"{flag} {spec}: use {', '.join(map(spelled, KINDS))}{hint}")
    return kind, where


def _folder(kind: str, where: str, options: JudgeOptions) -> Path:
    from parlai_prosocial.zoo.resolve import Kind, find

    found = find(where, f"{options.flag} {kind}:", options.datapath)
    if found.kind is not Kind.FOLDER:
        raise found.refused(f"is {found.kind}; give a Hugging Face folder or hub name")
    return found.place
