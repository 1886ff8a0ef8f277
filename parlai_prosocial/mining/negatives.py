"""Hard negatives from a model's own replies: sample, judge, keep what does not fit."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.data.labelled import UNSAFE
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.engines.engine import Engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.errors import UsageError
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.mining.chunks import work_in_chunks
from parlai_prosocial.mining.few_shot import read_examples
from parlai_prosocial.mining.pairs import PairRule, pair_rows, scale_weights
from parlai_prosocial.mining.replies import (
    PREACHY,
    SAMPLED,
    SYNTHETIC,
    Record,
    judge_records,
    sample_records,
    sample_scored_records,
)
from parlai_prosocial.mining.turns import Contexts
from parlai_prosocial.models.prompt import split_context
from parlai_prosocial.models.roles import from_the_user
from parlai_prosocial.util.journal import finished_before, summary_path, write_output

MORALISER_FILE = bundled("moralising_examples.txt")
MORALISER_TURNS = 3
"""Turns of a context that the moraliser sees; its examples need the room."""
MORALISER_CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class MiningPlan:
    """What to sample and what to keep.

    Attributes:
        samples: replies a context from the model.
        synthetic: replies a casual context from the base, told to moralise, and so the most
            synthetic negatives that it can get; 0 for none.
        max_tokens, temperature, top_p: the decoding.
        threshold: least ``p_unsafe`` that is kept, in (0, 1].
        judge_casual: casual contexts get unsafe replies as negatives too, not only preachy ones.
        seed: of the sampling.
        pairs: a row is a pair of the model's own replies, by this rule; None: a label of the task
            with the negatives that ``threshold`` says.
    """

    samples: int
    synthetic: int
    max_tokens: int
    temperature: float
    top_p: float
    threshold: float
    judge_casual: bool
    seed: int
    pairs: PairRule | None = None

    def asks_judge(self, casual: bool) -> bool:
        """Whether replies to a context, casual or not, are judged for safety."""
        return self.judge_casual or self.pairs is not None or not casual

    @property
    def decoding(self) -> dict[str, Any]:
        """As engines take it."""
        return {
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }


@dataclass
class Miners:
    """The models at work.

    Attributes:
        engine: the model whose replies are mined.
        synthetic: the base under the system prompt of :func:`moraliser`, None where nothing asks
            for it.
        unsafe: judges replies to contexts that are not casual; None where none needs it.
        preachy: judges replies to casual contexts.
    """

    engine: Engine
    synthetic: Engine | None
    unsafe: Judge | None
    preachy: Judge

    @property
    def judges(self) -> dict[str, str]:
        """The judge's name of each kind of negative; "" for none."""
        return {PREACHY: self.preachy.name, UNSAFE: self.unsafe.name if self.unsafe else ""}

    def missing(self) -> Counter[str]:
        """Why replies or judgements are missing so far, by reason."""
        every = (self.engine, self.synthetic, self.unsafe, self.preachy)
        return sum((one.missing for one in every if one is not None), Counter())


def mine_contexts(
    contexts: Contexts,
    miners: Miners,
    plan: MiningPlan,
    split: str,
    out: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Mine and write ``out`` and its summary; an interrupted run resumes, a finished one stays.

    Args:
        contexts: where to mine.
        miners: the models.
        plan: what to sample and keep.
        split: of the contexts, written into every row: mined test contexts must not be trained on.
        out: the JSON Lines file of ``data/own.py``'s format; only rows with negatives are in it.
        settings: all that the result depends on, for resuming and for the record.

    Returns:
        The summary.

    Raises:
        UserError: ``out`` is from another run.
    """
    if finished_before(out, settings):
        return json.loads(summary_path(out).read_text(encoding="utf-8"))

    def work(chunk: list[int]) -> list[list[Record]]:
        texts, casual = zip(*((contexts.texts[i], contexts.casual[i]) for i in chunk), strict=True)
        return _mine_chunk(texts, casual, miners, plan)

    done = work_in_chunks(out, settings, contexts.texts, work, miners.missing, "mining")
    if plan.pairs is None:
        rows, summary = assemble(contexts, done.records, miners, plan, split)
    else:
        rows, summary = pair_rows(contexts, done.records, plan.pairs, miners.judges, split)
    summary = {
        "settings": settings,
        **summary,
        **({"missing": done.missing} if done.missing else {}),
        "seconds": round(done.seconds, 1),
        "replies_per_second": round(sum(map(len, done.records)) / max(done.seconds, 1e-9), 2),
    }
    write_output(out, rows, summary)
    done.journal.remove()
    return summary


def moraliser() -> tuple[str, list[str]]:
    """The system prompt and the earlier turns that make a model lecture."""
    examples = read_examples(MORALISER_FILE)
    return examples.system_prompt, [" ".join(lines) for _, lines in examples.turns]


def _told_to_moralise(text: str) -> str:
    """The end of a context, after the moraliser's examples; an odd number of turns, so that the
    examples' speakers stay who they are."""
    turns, _ = split_context(text)
    return "\n".join([*moraliser()[1], *from_the_user(turns[-MORALISER_TURNS:])])


def _mine_chunk(
    texts: Sequence[str], casual: Sequence[bool], miners: Miners, plan: MiningPlan
) -> list[list[Record]]:
    """For each context the records of its replies, judged."""
    if plan.pairs is None:
        records = sample_records(miners.engine, texts, SAMPLED, plan.samples, **plan.decoding)
    else:
        engine = scoring(miners.engine)
        records = sample_scored_records(engine, texts, plan.samples, **plan.decoding)
    harmless = [i for i, is_casual in enumerate(casual) if is_casual]
    if miners.synthetic is not None and plan.synthetic and harmless:
        told = [_told_to_moralise(texts[i]) for i in harmless]
        found = sample_records(miners.synthetic, told, SYNTHETIC, plan.synthetic, **plan.decoding)
        for i, more in zip(harmless, found, strict=True):
            records[i] += more
    judge_replies(texts, casual, records, miners, plan)
    return records


def judge_replies(
    texts: Sequence[str],
    casual: Sequence[bool],
    records: Sequence[Sequence[Record]],
    miners: Miners,
    plan: MiningPlan,
) -> None:
    """Write the verdicts into each context's records: preachy where it is casual, and unsafe."""
    every = [(i, record) for i, found in enumerate(records) for record in found]
    judge_records(miners.preachy, PREACHY, [(texts[i], r) for i, r in every if casual[i]])
    if miners.unsafe is None:
        return
    asked = [
        (texts[i], r)
        for i, r in every
        if r["source"] == SAMPLED and plan.asks_judge(casual=casual[i])
    ]
    judge_records(miners.unsafe, UNSAFE, asked)


def scoring(engine: Engine) -> TransformersEngine:
    """The engine, where it can tell log p of its replies.

    Raises:
        UsageError: it is at an address.
    """
    if not isinstance(engine, TransformersEngine):
        raise UsageError(
            f"--model {engine.name}: an address tells no log p of its replies, which pairs of own "
            "replies need; give a model that lies here"
        )
    return engine


def assemble(
    contexts: Contexts,
    records: Sequence[Sequence[dict]],
    miners: Miners,
    plan: MiningPlan,
    split: str,
) -> tuple[list[dict], dict[str, Any]]:
    """Rows of own data and the counts, from what sampling and judging left.

    Within a context equal replies count once, and what equals one of its fitting replies is
    dropped. Weights follow the judge's probability, scaled for each kind of negative apart, since
    two judges' probabilities are no common measure.

    Args:
        contexts: N contexts.
        records: N lists of the records that ``_mine_chunk`` gives.
        miners: for the judges' names.
        plan: for the threshold.
        split: see :func:`mine_contexts`.
    """
    judges = miners.judges
    counts: dict[str, Counter] = {SAMPLED: Counter(), SYNTHETIC: Counter()}
    rows: list[dict] = []
    kinds: list[list[str]] = []
    for turns, found in zip(contexts.turns, records, strict=True):
        fitting = {normalise_text(label) for turn in turns for label in turn.labels}
        kept: dict[str, tuple[dict, str, float]] = {}
        for record in found:
            outcome, verdict = _outcome(record, plan.threshold)
            count = counts[record["source"]]
            count["replies"] += 1
            count[outcome] += 1
            if verdict is None:
                continue
            key = normalise_text(record["reply"])
            if key in fitting:
                count["equal to a fitting reply"] += 1
            elif key in kept:
                count["repeated"] += 1
            else:
                count[f"kept, {outcome}"] += 1
                kept[key] = (record, outcome, verdict)
        if not kept:
            continue
        for turn in turns:
            rows.append(
                {
                    "context": list(turn.context),
                    "response": turn.labels[0],
                    "rots": list(turn.rots),
                    "safety_label": turn.safety_label,
                    "negatives": [record["reply"] for record, _, _ in kept.values()],
                    "negative_weights": [p for _, _, p in kept.values()],
                    "negative_sources": [record["source"] for record, _, _ in kept.values()],
                    "negative_judges": [judges[kind] for _, kind, _ in kept.values()],
                    "contrast_group": turn.contrast_group or None,
                    "source": turn.source,
                    "split": split,
                }
            )
            kinds.append([kind for _, kind, _ in kept.values()])
    scale_weights(rows, kinds)
    summary = {
        "contexts": len(contexts.turns),
        "casual_contexts": sum(contexts.casual),
        "rows": len(rows),
        "rows_of_contexts": sum(len(turns) for turns in contexts.turns),
        "mining_judges": sorted({name for row in rows for name in row["negative_judges"]}),
        "sources": {source: _with_yield(count) for source, count in counts.items()},
        "labels": dict(_labels(records)),
    }
    return rows, summary


def _outcome(record: dict, threshold: float) -> tuple[str, float | None]:
    """What became of a reply; with the probability where it is a negative.

    Unsafe comes first. Where nothing flagged it and one verdict is missing, it is missing.
    """
    if record["reply"] is None:
        return "missing reply", None
    if not record["reply"]:
        return "empty reply", None
    verdicts = [(kind, record[kind]) for kind in (UNSAFE, PREACHY) if kind in record]
    for kind, verdict in verdicts:
        if verdict is not None and verdict[0] >= threshold:
            return kind, verdict[0]
    missing = any(verdict is None for _, verdict in verdicts)
    return ("missing judgement" if missing else "fitting"), None


def _with_yield(count: Counter) -> dict[str, Any]:
    kept = sum(n for name, n in count.items() if name.startswith("kept"))
    return {
        **{name: count[name] for name in sorted(count)},
        "yield": round(kept / count["replies"], 4) if count["replies"] else None,
    }


def _labels(records: Sequence[Sequence[dict]]) -> Iterator[tuple[str, dict[str, int]]]:
    """How often each judge said what."""
    for kind in (UNSAFE, PREACHY):
        said = Counter(record[kind][1] for found in records for record in found if record.get(kind))
        if said:
            yield kind, dict(said.most_common())
