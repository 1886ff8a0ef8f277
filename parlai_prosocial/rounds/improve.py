"""``improve`` from Python, which ``prosocial improve`` calls: learning from own judged replies.

::

    from parlai_prosocial import improve

    done = improve(
        "runs/step1/model",
        task="diasafety,self_dialogue",
        judge="classifier:zoo:prosocial/mpnet_safety",
        out="runs/improved",
    )
    print(done)
    done.to_pandas()
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.errors import UsageError, UserError, names_arguments
from parlai_prosocial.mining.mine import check_sampling, check_thresholds
from parlai_prosocial.util.files import Say
from parlai_prosocial.util.writer import Writer

if TYPE_CHECKING:
    from parlai_prosocial.rounds.results import Improved

_NOT_RECORDED = ("out", "rounds", "datapath", "say", "engine")
"""Arguments that no stage's output depends on; of the engine it is the one that is used."""

_same_names = names_arguments(
    [
        *("model", "task", "judge", "scoring_judge", "answer_judge", "rounds", "out", "samples"),
        *("limit", "valid_limit", "seed", "safe_below", "unsafe_above", "preachy_share"),
        *("max_tokens", "sampling_temperature", "top_p", "max_perplexity_ratio"),
        *("casual_dialogues", "datapath", "engine", "unsafe_label", "reply_only"),
    ],
    settings="set",
    task_settings="task-set",
    labels="labels",
)


@_same_names
def improve(
    model: str,
    task: str,
    judge: str,
    out: str | Path,
    *,
    rounds: int = 2,
    scoring_judge: str | None = None,
    answer_judge: str | None = None,
    unsafe_label: str | None = None,
    reply_only: bool = False,
    samples: int = 8,
    limit: int | None = None,
    valid_limit: int | None = 300,
    seed: int = 0,
    settings: Sequence[str] = (),
    task_settings: Sequence[str] = (),
    safe_below: float = 0.3,
    unsafe_above: float = 0.7,
    preachy_share: float = 0.02,
    max_tokens: int = 40,
    sampling_temperature: float = 1.0,
    top_p: float = 0.9,
    max_perplexity_ratio: float = 1.03,
    casual_dialogues: int = 60,
    labels: Sequence[str] = (),
    engine: str = "auto",
    datapath: str | None = None,
    say: Say = print,
) -> "Improved":
    """Rounds of sampling, judging, pairing and training; round r + 1 starts from round r's model.

    Each round keeps the contexts with a clearly safe and a clearly unsafe reply
    (:func:`~parlai_prosocial.mining.pairs.choose_pair`), trains on these pairs and three times as
    many casual examples (recipe ``improve``), and measures on the task's ``valid``. It ends early
    where casual perplexity passes the limit, or where no context has a pair.

    Args:
        model: a checkpoint of ``-m prosocial``, or any base that it trains.
        task: any ParlAI task whose ``train`` gives contexts and whose ``valid`` measures; several
            with commas between. Contexts of valid are left out of train. Those labelled
            ``__casual__`` are harmless: preachy replies do not fit there.
        judge: ``KIND:WHERE``; it chooses the pairs.
        out: folder. If stopped, the same call resumes; with more rounds it goes on.
        rounds: most rounds.
        scoring_judge: measures instead of ``judge``; None: ``judge`` does, and the result says so.
        answer_judge: judges whether a reply answers the turn at all: one that clearly does not is
            never a response and may be a negative, so that evasion does not pass for safety. A
            classifier learns it with ``--labels-axis unresponsive``.
        unsafe_label, reply_only: of all judges, see
            :class:`~parlai_prosocial.judges.registry.JudgeOptions`.
        samples: replies a context.
        limit: most contexts to learn from, evenly spread; None for all.
        valid_limit: most harmless and most other contexts to measure on, evenly spread; None for
            all.
        seed: of sampling and training.
        settings: ``KEY=VALUE`` each, parlai flags of training.
        task_settings: ``KEY=VALUE`` each, parlai flags of ``task``.
        safe_below: most p(unsafe) of a clearly safe reply, in [0, unsafe_above).
        unsafe_above: least p(unsafe) of a clearly unsafe one, in (0, 1].
        preachy_share: preachy replies are negatives where they are more than this share of those
            to casual contexts, in [0, 1].
        max_tokens, sampling_temperature, top_p: of the replies to learn from; measured ones have
            the one decoding of all tables.
        max_perplexity_ratio: most casual perplexity, relative to ``model``'s; above 0.
        casual_dialogues: of Self-dialogue's valid, for the perplexity.
        labels: files of labelled replies of ``model`` (``prosocial labels``); where they answer a
            context of ``task``, they join the first round's samples.
        engine: what samples, as for :func:`~parlai_prosocial.mine`; ``auto`` is decided for
            ``model`` and holds for all rounds.
        datapath: ParlAI's own where None.
        say: takes the lines that tell what is being done.

    Raises:
        UserError: an argument that makes no sense, a model, task or judge that is not there, or
            ``out`` of another call.
    """
    asked = {name: value for name, value in locals().items() if name not in _NOT_RECORDED}
    check_sampling(samples, limit, max_tokens, sampling_temperature, top_p)
    check_thresholds("--unsafe-above", safe_below, unsafe_above, preachy_share)
    if not unsafe_above <= 1:
        raise UsageError(f"--unsafe-above {unsafe_above}: give a probability, e.g. 0.7")
    for flag, count in (
        ("rounds", rounds),
        ("valid-limit", 1 if valid_limit is None else valid_limit),
        ("casual-dialogues", casual_dialogues),
    ):
        if count < 1:
            raise UsageError(f"--{flag} {count}: must be at least 1")
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: use {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if not max_perplexity_ratio > 0:
        raise UsageError(f"--max-perplexity-ratio {max_perplexity_ratio}: must be above 0")
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.engine import taken
    from parlai_prosocial.judges.registry import check_options, given_options, open_judge
    from parlai_prosocial.mining.turns import Contexts, task_turns
    from parlai_prosocial.models.precision import computes_in_bf16
    from parlai_prosocial.rounds import stages
    from parlai_prosocial.rounds.labelled import records_of
    from parlai_prosocial.rounds.results import Improved
    from parlai_prosocial.rounds.run import Run, begun_engine
    from parlai_prosocial.util.environment import precision_name

    specs = {"--judge": judge, "--scoring-judge": scoring_judge, "--answer-judge": answer_judge}
    check_options(specs, unsafe_label, reply_only)
    out, datapath = Path(out).expanduser(), find_datapath(datapath)
    start = stages.find_start(model, datapath)
    valid = stages.held_out(task, datapath, task_settings, valid_limit)
    held_out = {turns[0].key for turns in valid.turns}
    turns = task_turns(task, "train", datapath, task_settings)
    kept = [turn for turn in turns if turn.key not in held_out]
    if not kept:
        raise UserError(f"--task {task}: every context of train is in valid too")
    contexts = Contexts(kept, limit)
    bf16 = computes_in_bf16(out)
    # A wrong setting is found here, before judges are opened.
    training = (out / "round-1" / "pairs.jsonl", out / "round-1" / "training", datapath)
    context_tokens = stages.context_tokens(
        stages.training_arguments(start, *training, precision_name(bf16), seed, settings)
    )
    options = (datapath, bf16, unsafe_label, reply_only)
    mining = scoring = open_judge(judge, *options, "--judge")
    if scoring_judge:
        scoring = open_judge(scoring_judge, *options, "--scoring-judge")
    if scoring_judge and scoring.name == mining.name:
        raise UserError(
            f"--scoring-judge {scoring_judge}: is the judge that chooses the pairs; give another "
            "one, or none"
        )
    answers = open_judge(answer_judge, *options, "--answer-judge") if answer_judge else None
    if answer_judge and answers is not None:
        stages.check_answers(answer_judge, answers.name, (mining.name, scoring.name))
    engine = begun_engine(out, engine)
    engine = taken(engine, start.name, datapath, bf16)
    record = {
        **asked,
        "precision": precision_name(bf16),
        # Absent, as in runs that were begun before there was another.
        **({"engine": engine} if engine != "transformers" else {}),
        "weights_sha256": stages.weights_of(start),
        "judges": {"mining": mining.name, "scoring": scoring.name}
        | ({"answers": answers.name} if answers else {}),
        "contexts_sha256": contexts.sha256(),
        "valid_sha256": valid.sha256(),
    }
    if answers is None:
        del record["answer_judge"]  # as in runs that were begun before there was one
    for name in {"unsafe_label", "reply_only"} - given_options(unsafe_label, reply_only).keys():
        del record[name]  # the same
    labelled = records_of(labels, contexts, answers is not None) if labels else None
    if labelled is not None and not any(labelled):
        raise UserError(f"--labels {', '.join(labels)}: no labelled reply to a context of --task")
    judges = (mining, scoring, answers)
    run = Run(
        out, datapath, bf16, context_tokens, record, start, contexts, valid, *judges, labelled, say
    )
    with Writer(out, "--out"):
        run.begin()
        return Improved(out, run.rounds(rounds))
