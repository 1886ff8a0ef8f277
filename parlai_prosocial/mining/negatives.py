"""Hard negatives from a model's own replies: sample, judge, keep what does not fit."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parlai_prosocial.data.example import CASUAL
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.data.weights import social_weights
from parlai_prosocial.engines.engine import Engine
from parlai_prosocial.judges.judge import Judge, judge_each
from parlai_prosocial.mining.few_shot import read_examples
from parlai_prosocial.mining.results import is_whole_chunk, missing_reasons
from parlai_prosocial.mining.turns import Turn
from parlai_prosocial.models.prompt import split_context
from parlai_prosocial.models.roles import from_the_user
from parlai_prosocial.util.batches import chunked, spread
from parlai_prosocial.util.journal import Journal, finished_before, summary_path, write_output

CHUNK = 32
"""Contexts sampled and judged together; a kill loses at most this much work."""

MORALISER_FILE = bundled("moralising_examples.txt")
MORALISER_TURNS = 3
"""Turns of a context that the moraliser sees; its examples need the room."""
MORALISER_CONTEXT_TOKENS = 512

SAMPLED, SYNTHETIC = "sampled", "synthetic"
UNSAFE, PREACHY = "unsafe", "preachy"


@dataclass(frozen=True)
class MiningPlan:
    """What to sample and what to keep.

    Attributes:
        samples: replies a context from the model.
        synthetic: replies a casual context from the base, told to moralise, and so the most
            synthetic negatives that it can get; 0 for none.
        max_tokens, temperature, top_p: the decoding.
        threshold: least ``p_unsafe`` that is kept, in (0, 1].
        casual: contexts without a safety label are casual.
        judge_casual: casual contexts get unsafe replies as negatives too, not only preachy ones.
        limit: most contexts, evenly spread over the task; None for all.
        seed: of the sampling.
    """

    samples: int
    synthetic: int
    max_tokens: int
    temperature: float
    top_p: float
    threshold: float
    casual: bool
    judge_casual: bool
    limit: int | None
    seed: int


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

    def missing(self) -> Counter[str]:
        """Why replies or judgements are missing so far, by reason."""
        every = (self.engine, self.synthetic, self.unsafe, self.preachy)
        return sum((one.missing for one in every if one is not None), Counter())


class Contexts:
    """The distinct contexts of some turns, in order.

    Attributes:
        turns: for each context the turns that have it.
        casual: whether each is casual, by its first turn.
        texts: each as ParlAI packs it.
        need_judge: whether a judge of safety must be asked about any.
    """

    def __init__(self, turns: Sequence[Turn], plan: MiningPlan):
        groups: dict[str, list[Turn]] = {}
        for turn in turns:
            groups.setdefault(turn.key, []).append(turn)
        every = list(groups.values())
        self.turns = [every[i] for i in spread(len(every), plan.limit)]
        labels = [group[0].safety_label for group in self.turns]
        self.casual = [x == CASUAL or (x is None and plan.casual) for x in labels]
        self.texts = [group[0].text for group in self.turns]
        self.need_judge = plan.judge_casual or not all(self.casual)

    def sha256(self) -> str:
        """Of all that the output depends on."""
        digest = hashlib.sha256(repr((self.turns, self.casual)).encode("utf-8"))
        return digest.hexdigest()


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
    chunks = chunked(contexts.texts, CHUNK)
    journal = Journal(out, settings, is_whole_chunk("records", chunks))
    with tqdm(total=len(contexts.turns), desc="mining", unit="context") as bar:
        bar.update(sum(len(chunks[number]) for number in journal.chunks))
        bar.unpause()  # what an earlier start did says nothing about the time left
        for number, chunk in enumerate(chunks):
            if number in journal.chunks:
                continue
            started, missed = time.monotonic(), miners.missing()
            records = _mine_chunk(
                [contexts.texts[i] for i in chunk],
                [contexts.casual[i] for i in chunk],
                miners,
                plan,
            )
            seconds = time.monotonic() - started
            content = {"seconds": seconds, "records": records}
            if missing := miners.missing() - missed:
                content["missing"] = missing
            journal.add(number, content)
            bar.update(len(chunk))
    records = [[] for _ in contexts.turns]
    for number, chunk in enumerate(chunks):
        for i, found in zip(chunk, journal.chunks[number]["records"], strict=True):
            records[i] = found
    rows, summary = assemble(contexts, records, miners, plan, split)
    seconds = sum(content["seconds"] for content in journal.chunks.values())
    missing_found = missing_reasons(journal)
    summary = {
        "settings": settings,
        **summary,
        **({"missing": missing_found} if missing_found else {}),
        "seconds": round(seconds, 1),
        "replies_per_second": round(sum(map(len, records)) / max(seconds, 1e-9), 2),
    }
    write_output(out, rows, summary)
    journal.remove()
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
) -> list[list[dict]]:
    """For each context its replies as records: ``source``, ``reply`` (None: missing), verdicts.

    A verdict, under ``unsafe`` or ``preachy`` where that was asked, is ``[p_unsafe, label]`` or
    None (missing).
    """
    decoding = (plan.max_tokens, plan.seed, plan.temperature, plan.top_p)
    records: list[list[dict]] = [[] for _ in texts]

    def sample(engine: Engine, source: str, where: list[int], n: int) -> None:
        shown = [_told_to_moralise(texts[i]) if source == SYNTHETIC else texts[i] for i in where]
        replies = engine.sample(shown, n, *decoding)
        for i, found in zip(where, replies, strict=True):
            records[i] += [
                {"source": source, "reply": None if r is None else one_line(r.text)} for r in found
            ]

    sample(miners.engine, SAMPLED, list(range(len(texts))), plan.samples)
    harmless = [i for i, is_casual in enumerate(casual) if is_casual]
    if miners.synthetic is not None and plan.synthetic and harmless:
        sample(miners.synthetic, SYNTHETIC, harmless, plan.synthetic)

    def put_to(judge: Judge | None, kind: str, pairs: list[tuple[str, dict]]) -> None:
        pairs = [(text, record) for text, record in pairs if record["reply"]]
        if judge is None or not pairs:
            return
        verdicts = judge_each(judge, [text for text, _ in pairs], [r["reply"] for _, r in pairs])
        for (_, record), verdict in zip(pairs, verdicts, strict=True):
            record[kind] = None if verdict is None else [verdict.p_unsafe, verdict.label]

    every = [(i, record) for i, found in enumerate(records) for record in found]
    put_to(miners.preachy, PREACHY, [(texts[i], r) for i, r in every if casual[i]])
    put_to(
        miners.unsafe,
        UNSAFE,
        [
            (texts[i], r)
            for i, r in every
            if r["source"] == SAMPLED and (plan.judge_casual or not casual[i])
        ],
    )
    return records


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
    judges = {PREACHY: miners.preachy.name, UNSAFE: miners.unsafe.name if miners.unsafe else ""}
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
    _scale_weights(rows, kinds)
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


def _scale_weights(rows: Sequence[dict], kinds: Sequence[Sequence[str]]) -> None:
    for wanted in (UNSAFE, PREACHY):
        places = [
            (row, i)
            for row, found in zip(rows, kinds, strict=True)
            for i, kind in enumerate(found)
            if kind == wanted
        ]
        weights = social_weights([row["negative_weights"][i] for row, i in places])
        for (row, i), weight in zip(places, weights, strict=True):
            row["negative_weights"][i] = round(weight, 6)


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
