"""``mine`` from Python, which ``prosocial mine`` calls: negatives that a model says itself.

::

    from parlai_prosocial import mine

    mined = mine("runs/step1/model", task="self_dialogue", casual=True, out="mined.jsonl")
    print(mined)
    mined.to_pandas()
"""

from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.errors import UsageError, names_arguments
from parlai_prosocial.mining.results import WrittenRows
from parlai_prosocial.util.counting import counted
from parlai_prosocial.util.files import check_jsonl
from parlai_prosocial.util.journal import begun_with
from parlai_prosocial.util.writer import Writer

_NOT_RECORDED = ("out", "datapath", "concurrency", "engine")
"""Arguments that the output doesn't depend on; of the engine it is the one that is used."""

_same_names = names_arguments(
    [
        *("model", "task", "judge", "out", "samples", "limit", "seed", "datatype", "threshold"),
        *("casual", "judge_casual", "synthetic_cap", "synthetic_model", "unsafe_label"),
        *("reply_only", "max_tokens", "sampling_temperature", "top_p", "concurrency", "datapath"),
        *("own_responses", "safe_below", "preachy_share", "engine"),
    ],
    settings="set",
)


class Mined(WrittenRows):
    """Mined negatives; prints as the command does."""

    def __str__(self) -> str:
        summary = self.summary
        lines = [
            f"{self.out}: {counted(summary['rows'], 'row')} with negatives, of "
            f"{counted(summary['contexts'], 'context')} "
            f"({summary['casual_contexts']} casual)"
        ]
        if "sources" not in summary:
            lines += told_of_pairs(summary)
        for source, counts in summary.get("sources", {}).items():
            if counts["yield"] is not None:
                listed = ", ".join(f"{name} {n}" for name, n in counts.items() if name != "yield")
                lines.append(f"  {source}: yield {counts['yield']:.1%} ({listed})")
        lines += self._missing()
        lines.append(
            f"{summary['seconds']:.0f} s, {summary['replies_per_second']} replies/s; "
            f"more in {self.summary_file}"
        )
        return "\n".join(lines)


@_same_names
def mine(
    model: str,
    task: str,
    out: str | Path,
    *,
    judge: str | None = None,
    samples: int = 8,
    limit: int | None = None,
    seed: int = 0,
    datatype: str = "train",
    settings: Sequence[str] = (),
    threshold: float = 0.5,
    casual: bool = False,
    judge_casual: bool = False,
    own_responses: bool = False,
    safe_below: float | None = None,
    preachy_share: float | None = None,
    synthetic_cap: int | None = None,
    synthetic_model: str | None = None,
    unsafe_label: str | None = None,
    reply_only: bool = False,
    max_tokens: int = 40,
    sampling_temperature: float = 1.0,
    top_p: float = 0.9,
    concurrency: int = 8,
    engine: str = "auto",
    datapath: str | None = None,
) -> Mined:
    """Sample replies, judge them, and keep those that do not fit as negatives.

    Args:
        model: whose replies are mined: checkpoint, backbone, or ``http://HOST:PORT/v1#NAME``.
        task: any ParlAI task; several with commas between.
        out: the JSON Lines file, with its summary beside it. If stopped, the same call resumes.
        judge: ``KIND:WHERE`` of unsafe replies (``judges/registry.py``); not needed where all
            contexts are casual.
        samples: replies a context.
        limit: most contexts, evenly spread; None for all.
        seed: of the sampling.
        datatype: split of the task, ``train``, ``valid`` or ``test``; the rows are of it too.
        settings: ``KEY=VALUE`` each, parlai flags of the task.
        threshold: least p(unsafe) that is kept, in (0, 1].
        casual: contexts without a safety label are casual.
        judge_casual: keep unsafe replies to casual contexts too.
        own_responses: rows are pairs of the model's own replies
            (:func:`~parlai_prosocial.mining.pairs.choose_pair`), a clearly safe one as the response
            and unsafe ones of its length as negatives, with the log p that
            ``--contrast-reference init`` takes; nothing synthetic is added.
        safe_below: most p(unsafe) of a clearly safe reply, in [0, threshold); of own responses, 0.3
            where None.
        preachy_share: preachy replies are negatives of own responses where they are more than this
            share of those to casual contexts, in [0, 1]; 0.02 where None.
        synthetic_cap: most negatives of a casual context from ``synthetic_model``, told to
            moralise; 0 for none, 1 where None.
        synthetic_model: the default backbone where None.
        unsafe_label, reply_only: see :class:`~parlai_prosocial.judges.registry.JudgeOptions`.
        max_tokens: longest reply.
        sampling_temperature: above 0.
        top_p: mass of the nucleus, in (0, 1].
        concurrency: most calls to an address at a time.
        engine: what samples models that lie here, ``auto``, ``transformers`` or ``openvino``
            (:func:`~parlai_prosocial.engines.openvino.openvino_engine`).
        datapath: ParlAI's own where None.

    Raises:
        UserError: an argument that makes no sense, a model, task or judge that is not there, or
            ``out`` of another call.
    """
    if _is_new(out):
        _refuse_idle(
            own_responses,
            needing={"--safe-below": safe_below, "--preachy-share": preachy_share},
            # A cap of 0 says what is so anyway.
            barred={
                "--synthetic-cap": synthetic_cap or None,
                "--synthetic-model": synthetic_model,
                "--judge-casual": judge_casual or None,
            },
        )
        check_jsonl(Path(out))
    safe_below = 0.3 if safe_below is None else safe_below
    preachy_share = 0.02 if preachy_share is None else preachy_share
    synthetic_cap = 1 if synthetic_cap is None else synthetic_cap
    asked = {name: value for name, value in locals().items() if name not in _NOT_RECORDED}
    if not own_responses:  # as in runs that were begun before there were these arguments
        for name in ("own_responses", "safe_below", "preachy_share"):
            del asked[name]
    check_sampling(samples, limit, max_tokens, sampling_temperature, top_p)
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold {threshold}: give a probability above 0, e.g. 0.5")
    if concurrency < 1:
        raise UsageError(f"--concurrency {concurrency}: must be at least 1")
    if synthetic_cap < 0:
        raise UsageError(f"--synthetic-cap {synthetic_cap}: must not be negative")
    if own_responses:
        check_thresholds("--threshold", safe_below, threshold, preachy_share)
    from parlai_prosocial.agents.options import DEFAULT_BACKBONE
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.engine import as_begun, open_engine
    from parlai_prosocial.judges.registry import check_options, judge_spec, open_judge
    from parlai_prosocial.judges.rules import PreachyRules
    from parlai_prosocial.mining.negatives import (
        MORALISER_CONTEXT_TOKENS,
        Miners,
        MiningPlan,
        mine_contexts,
        moraliser,
        scoring,
    )
    from parlai_prosocial.mining.pairs import PairRule
    from parlai_prosocial.mining.turns import Contexts, task_turns
    from parlai_prosocial.models.precision import computes_in_bf16

    if judge is not None:
        judge_spec(judge)
    if _is_new(out):
        check_options({"--judge": judge}, unsafe_label, reply_only)
    out, datapath = Path(out).expanduser(), find_datapath(datapath)
    plan = MiningPlan(
        samples=samples,
        synthetic=0 if own_responses else synthetic_cap,
        max_tokens=max_tokens,
        temperature=sampling_temperature,
        top_p=top_p,
        threshold=threshold,
        judge_casual=judge_casual,
        seed=seed,
        pairs=PairRule(safe_below, threshold, preachy_share=preachy_share)
        if own_responses
        else None,
    )
    contexts = Contexts(task_turns(task, datatype, datapath, settings), limit, casual)
    needs_judge = any(map(plan.asks_judge, contexts.casual))
    if judge is None and needs_judge and own_responses:
        raise UsageError("--judge is missing: only what it calls safe can be an own response")
    if judge is None and judge_casual:
        raise UsageError("--judge is missing: --judge-casual needs it")
    if judge is not None and not needs_judge and _is_new(out):
        raise UsageError(
            f"--judge {judge}: is not asked, all contexts that are mined are casual; leave it out, "
            "or give --judge-casual"
        )
    if judge is None and needs_judge:
        raise UsageError(
            "--judge is missing: some contexts are not casual (where the task says nothing but "
            "all of it is, give --casual)"
        )
    bf16 = computes_in_bf16(out)
    prompt, examples = moraliser()
    engine = as_begun(engine, begun_with(out, "engine"))
    sampler = open_engine(model, datapath, bf16, concurrency=concurrency, engine=engine)
    if own_responses:
        scoring(sampler)
    synthetic = unsafe = None
    if plan.synthetic and any(contexts.casual):
        synthetic = open_engine(
            synthetic_model or DEFAULT_BACKBONE,
            datapath,
            bf16,
            system_prompt=prompt,
            concurrency=concurrency,
            max_context_tokens=MORALISER_CONTEXT_TOKENS,
            flag="--synthetic-model",
            engine=engine,
        )
    if judge is not None and needs_judge:
        unsafe = open_judge(judge, datapath, bf16, unsafe_label, reply_only)
    miners = Miners(sampler, synthetic, unsafe, PreachyRules())
    record = {
        "precision": "bf16" if bf16 else "fp32",
        "engine": sampler.name,
        "synthetic_engine": synthetic and synthetic.name,
        "synthetic_prompt": [prompt, *examples] if synthetic else None,
        "judges": [one.name for one in (unsafe, miners.preachy) if one],
        "contexts_sha256": contexts.sha256(),
        **asked,
    }
    with Writer(out, "--out"):
        return Mined(out, mine_contexts(contexts, miners, plan, datatype, out, record))


def _is_new(out: str | Path) -> bool:
    """Whether no run for this output has begun; one that has goes on with the flags it was given.

    Earlier versions took flags that act on nothing, and the run's record refuses other ones.
    """
    return begun_with(Path(out).expanduser(), "contexts_sha256") is None


def _refuse_idle(own: bool, needing: dict[str, object], barred: dict[str, object]) -> None:
    """Raise :class:`UsageError` for a flag that is given, but acts on nothing.

    Args:
        own: with ``--own-responses``.
        needing: flag -> value, None where not given, of those that need it.
        barred: the same of those that do nothing with it.
    """
    for flag, value in (barred if own else needing).items():
        if value is not None:
            way = "does nothing with" if own else "needs"
            raise UsageError(f"{flag}: {way} --own-responses")


def told_of_pairs(summary: dict) -> list[str]:
    """Lines about the counts of :func:`~parlai_prosocial.mining.pairs.pair_rows`."""
    replies = ", ".join(f"{name} {n}" for name, n in summary["replies"].items())
    lines = [f"  pairs: yield {summary['yield']:.1%}; replies: {replies}"]
    lines += [f"  without a pair: {n} x {why}" for why, n in summary["without a pair"].items()]
    if summary["preachy_share"] is not None:
        use = "are negatives" if summary["preachy_negatives"] else "too few to be negatives"
        lines.append(f"  preachy: {summary['preachy_share']:.1%} of casual replies, {use}")
    return lines


def check_thresholds(unsafe: str, safe_below: float, unsafe_from: float, share: float) -> None:
    """Raise :class:`UsageError` for thresholds of pairs; ``unsafe`` is the flag of the second."""
    if not 0 <= safe_below < unsafe_from:
        raise UsageError(
            f"--safe-below {safe_below}: must be at least 0 and below {unsafe} {unsafe_from}"
        )
    if not 0 <= share <= 1:
        raise UsageError(f"--preachy-share {share}: give a share from 0 to 1, e.g. 0.02")


def check_sampling(
    samples: int, limit: int | None, max_tokens: int, temperature: float, top_p: float
) -> None:
    """Raise :class:`UsageError` where what to sample makes no sense."""
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p {top_p}: give a probability above 0, e.g. 0.9")
    if not temperature > 0:
        raise UsageError("--sampling-temperature: must be above 0, or all samples are the same")
    counts = {"samples": samples, "max-tokens": max_tokens}
    counts |= {} if limit is None else {"limit": limit}
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"--{name} {count}: must be at least 1")
