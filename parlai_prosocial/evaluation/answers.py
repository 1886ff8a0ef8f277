"""Answers of models and judges: asked for in batches, each once, kept on disk at once.

Replies, likelihoods and judgements lie in journals under ``OUT/cache``: replies by model, decoding
and seed, judgements by judge, and in each by the text that was asked about. So a killed run goes
on, and another run into the same folder asks only for what is new. What failed is not kept: the
same command asks for it again.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.engines.engine import Engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import score_replies
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.suite import SuiteContext, digest
from parlai_prosocial.judges.judge import Judge, judge_each, verdict
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.util.batches import chunked
from parlai_prosocial.util.journal import Journal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """How replies are sampled.

    Attributes:
        temperature: 0 is greedy.
        top_p: mass of the nucleus.
        max_tokens: longest reply.
        seed: of the sampling.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


class Answers:
    """Asks for what is not there yet.

    Args:
        folder: of the journals.
        batch_size: how many contexts or replies are asked about at a time. Nothing depends on it
            but speed and rounding.
        max_missing: share of answers that may be missing; above it, no more is asked for.
    """

    def __init__(self, folder: Path, batch_size: int, max_missing: float):
        self.folder, self.batch_size, self.max_missing = folder, batch_size, max_missing

    def replies(
        self, engine: Engine, contexts: Sequence[SuiteContext], decoding: Decoding, bf16: bool
    ) -> list[dict[str, Any] | None]:
        """``reply`` and ``ended`` for each context; None where there is none."""

        def ask(batch: list[int]) -> list[dict[str, Any] | None]:
            found = engine.sample(
                [contexts[i].text for i in batch],
                1,
                decoding.max_tokens,
                decoding.seed,
                decoding.temperature,
                decoding.top_p,
            )
            return [
                None if reply is None else {"reply": one_line(reply.text), "ended": reply.ended}
                for [reply] in found
            ]

        settings = {"engine": engine.name, "bf16": bf16, "decoding": asdict(decoding)}
        texts = [context.text for context in contexts]
        return self._complete("replies", engine.name, settings, texts, ask)

    def likelihoods(
        self, engine: TransformersEngine, contexts: Sequence[SuiteContext], bf16: bool
    ) -> list[dict[str, Any] | None]:
        """``likelihood`` of the log's records for contexts that have fitting replies."""

        def ask(batch: list[int]) -> list[dict[str, Any] | None]:
            return _likelihoods(engine.backbone, [contexts[i] for i in batch], bf16)

        settings = {"engine": engine.name, "bf16": bf16}
        texts = ["\n".join([c.text, *_scored(c)]) for c in contexts]
        return self._complete("likelihoods", engine.name, settings, texts, ask)

    def judgements(
        self,
        judge: Judge,
        options: Mapping[str, Any],
        contexts: Sequence[str],
        replies: Sequence[str],
    ) -> list[dict[str, Any] | None]:
        """``p_unsafe`` and ``label`` of each reply; None where that is missing.

        Args:
            judge: who judges.
            options: what its judgements depend on beside its name.
            contexts, replies: N of each.
        """

        def ask(batch: list[int]) -> list[dict[str, Any] | None]:
            found = judge_each(judge, [contexts[i] for i in batch], [replies[i] for i in batch])
            return [None if verdict(j) is None or j is None else asdict(j) for j in found]

        texts = [f"{context}\n{reply}" for context, reply in zip(contexts, replies, strict=True)]
        settings = {"judge": judge.name, **options}
        return self._complete("judgements", judge.name, settings, texts, ask)

    def _complete(
        self,
        what: str,
        who: str,
        settings: dict[str, Any],
        texts: Sequence[str],
        ask: Callable[[list[int]], list[dict[str, Any] | None]],
    ) -> list[dict[str, Any] | None]:
        """An answer for each text, from the journal or by ``ask``; equal texts are asked once."""
        keys = [digest(text) for text in texts]
        settings = {"what": what, **settings}
        name = re.sub(r"[^\w.-]+", "-", f"{what}-{who[-60:]}-{digest(json.dumps(settings))}")
        journal = Journal(self.folder / name, settings)
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        pending = sorted(i for key, i in first.items() if key not in journal.chunks)
        missing, may_miss = 0, self.max_missing * len(texts)
        title = f"{what}, {who[-30:]}"
        with tqdm(total=len(pending), desc=title, leave=False, disable=None) as bar:
            for chunk in chunked([texts[i] for i in pending], self.batch_size):
                batch = [pending[i] for i in chunk]
                try:
                    answers = ask(batch)
                except UserError as error:
                    if not journal.chunks:
                        raise  # wrong from the beginning: an address, a key, a name
                    logger.warning("%s", error)
                    answers = [None] * len(batch)
                found = {keys[i]: a for i, a in zip(batch, answers, strict=True) if a is not None}
                missing += len(batch) - len(found)
                journal.add_all(found)
                bar.update(len(batch))
                if missing > may_miss:
                    break
        return [journal.chunks.get(key) for key in keys]


def make_records(
    answers: Answers,
    engine: Engine,
    model: str,
    suite: str,
    contexts: Sequence[SuiteContext],
    decoding: Decoding,
    bf16: bool,
) -> list[dict[str, Any]]:
    """The log's records of one model on a suite (``evaluation/records.py``), not judged yet."""
    replies = answers.replies(engine, contexts, decoding, bf16)
    likelihoods: dict[str, Any] = {}
    # A class of MIC's is no reply whose likelihood would say anything.
    known = [context for context in contexts if context.fitting and context.axes]
    if isinstance(engine, TransformersEngine) and known:
        found = answers.likelihoods(engine, known, bf16)
        likelihoods = {context.id: scores for context, scores in zip(known, found, strict=True)}
    return [
        {
            "model": model,
            "suite": suite,
            "id": context.id,
            "context": list(context.turns),
            "label": context.label,
            "kind": context.kind,
            "source": context.source,
            "cluster": context.cluster,
            "axes": list(context.axes),
            "fitting": list(context.fitting),
            "unfit": list(context.unfit),
            "decoding": asdict(decoding),
            "reply": reply and reply["reply"],
            "ended": reply and reply["ended"],
            "judgements": {},
            "likelihood": likelihoods.get(context.id),
        }
        for context, reply in zip(contexts, replies, strict=True)
    ]


def _scored(context: SuiteContext) -> list[str]:
    """The replies whose likelihood is taken: all, or where there is no contrast the first."""
    if context.unfit:
        return [*context.fitting, *context.unfit]
    return [context.fitting[0]]


def _likelihoods(
    backbone: Backbone, contexts: Sequence[SuiteContext], bf16: bool
) -> list[dict[str, Any] | None]:
    found: list[dict[str, Any] | None] = []
    pairs = [(context.text, _scored(context)) for context in contexts]
    for context, scores in zip(contexts, score_replies(backbone, pairs, bf16), strict=True):
        means = [score.mean_log_prob for score in scores] if context.unfit else []
        found.append(
            {
                "nll": scores[0].nll,
                "tokens": scores[0].tokens,
                "fitting": means[: len(context.fitting)],
                "unfit": means[len(context.fitting) :],
            }
        )
    return found
