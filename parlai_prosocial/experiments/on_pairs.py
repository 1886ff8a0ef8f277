"""``prosocial ablate --pairs``: arms that differ in how they learn from the same pairs."""

import time
from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.data import own
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.experiments.machine import write_results
from parlai_prosocial.experiments.pair_rows import PairRows
from parlai_prosocial.experiments.pair_table import pair_table
from parlai_prosocial.experiments.run import Experiment, Measured, measure_rows
from parlai_prosocial.experiments.train_arms import read_design
from parlai_prosocial.judges.registry import check_options, given_options
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.measure import casual_valid
from parlai_prosocial.rounds.results import START
from parlai_prosocial.training.recipe import RECIPES
from parlai_prosocial.util.counting import counted
from parlai_prosocial.util.environment import environment, precision_name
from parlai_prosocial.util.files import Say, file_sha256, json_text, write_aside
from parlai_prosocial.util.journal import SETTINGS, check_settings, parsed
from parlai_prosocial.util.writer import Writer


def ablate_pairs(
    init_model: str,
    pairs: str | Path,
    judge: str,
    *,
    task: str = "diasafety,self_dialogue",
    recipe: str | Path = "improve",
    scoring_judge: str | None = None,
    answer_judge: str | None = None,
    unsafe_label: str | None = None,
    reply_only: bool = False,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
    valid_limit: int | None = 300,
    casual_dialogues: int = 60,
    settings: Sequence[str] = (),
    task_settings: Sequence[str] = (),
    out: str | Path | None = None,
    datapath: str | None = None,
    say: Say = print,
) -> Experiment:
    """Train arms from one model on one file of pairs and as much casual replay, and measure them.

    Called again with the same arguments it goes on where it was stopped, with as many ``jobs`` and
    with other ``arms`` and ``seeds`` too. The table has the arms that all seeds begun so far have.

    Args:
        init_model: a checkpoint of ``-m prosocial``, or any base that it trains.
        pairs: own data in JSON Lines, as ``prosocial improve`` writes it.
        judge: ``KIND:WHERE``; it chooses the best of n replies.
        task: any ParlAI task whose ``valid`` gives the contexts to measure on.
        recipe: a bundled one or a folder, with round.opt and arms.json.
        scoring_judge: measures; None: ``judge`` does, and the table says so.
        answer_judge: measures too, whether replies answer the turn.
        unsafe_label, reply_only: of all judges, see
            :class:`~parlai_prosocial.judges.registry.JudgeOptions`.
        arms: names; all of them where None. The control and the primary arm always take part.
        seeds: of training and sampling.
        jobs: arms trained and measured side by side, each in a process with one thread.
        valid_limit: most harmless and most other contexts to measure on; None for all.
        casual_dialogues: of Self-dialogue's valid, for the perplexity.
        settings: ``KEY=VALUE`` each, parlai flags of training, of all arms.
        task_settings: the same of ``task``.
        out: folder for models and results; ``runs/ablate-RECIPE`` where None.
        datapath: ParlAI's own where None.
        say: takes the lines that tell what is being done.

    Raises:
        UserError: a mistake in the arguments, a context of ``valid`` that is among the pairs', or
            rows failed; those that did not are kept.
    """
    from parlai.scripts.train_model import TrainModel

    from parlai_prosocial.compat.flags import check_flags, find_datapath
    from parlai_prosocial.models.precision import best_device, computes_in_bf16

    for flag, count in (("--valid-limit", valid_limit), ("--casual-dialogues", casual_dialogues)):
        if count is not None and count < 1:
            raise UsageError(f"{flag} {count}: must be at least 1")
    specs = {"--judge": judge, "--scoring-judge": scoring_judge, "--answer-judge": answer_judge}
    check_options(specs, unsafe_label, reply_only)
    options = given_options(unsafe_label, reply_only)
    folder = next(
        (f for f in (RECIPES / recipe, Path(recipe)) if (f / "round.opt").is_file()), None
    )
    if folder is None:
        raise UserError(f"--recipe {recipe}: has no round.opt, which arms on given pairs need")
    design, datapath = read_design(folder), find_datapath(datapath)
    design.check(list(arms or []), "--arms")
    chosen = design.with_compared(list(design.arms if arms is None else arms))
    target = Path(out) if out is not None else Path("runs") / f"ablate-{folder.name}"
    start = stages.find_start(init_model, datapath, "--init-model")
    valid = stages.held_out(task, datapath, task_settings, valid_limit)
    _check_pairs(Path(pairs), datapath, {turns[0].key for turns in valid.turns})
    bf16 = computes_in_bf16(target)
    rows = PairRows(
        target,
        start,
        Path(pairs),
        design.arms,
        settings,
        valid,
        datapath,
        bf16,
        0,
        judge,
        scoring_judge or judge,
        answer_judge,
        casual_dialogues,
        folder / "round.opt",
        options,
    )
    # A wrong setting is found here, before any work.
    trained = next(name for name in chosen if "best_of" not in design.arms[name])
    opt = check_flags(TrainModel.setup_args(), rows.training_arguments(seeds[0], trained))
    rows.context_tokens = int(opt["text_truncate"])
    judges = {
        "choosing": rows.judge(rows.choosing).name,
        "scoring": rows.judge(rows.scoring, "--scoring-judge").name,
    }
    if answer_judge:
        judges["answers"] = rows.judge(answer_judge, "--answer-judge").name
        others = (judges["choosing"], judges["scoring"])
        stages.check_answers(answer_judge, judges["answers"], others)
    record = {
        "weights_sha256": stages.weights_of(start),
        "pairs_sha256": file_sha256(Path(pairs)),
        "preset_sha256": file_sha256(folder / "round.opt"),
        "valid_sha256": valid.sha256(),
        "judges": judges,
        **options,
        "precision": precision_name(bf16),
        "settings": list(settings),
        "casual_dialogues": casual_dialogues,
    }
    dialogues = [reply.dialogue for reply in casual_valid(datapath, casual_dialogues)]
    facts = {"jobs": jobs, "arms": chosen, "seeds": list(seeds), **record}
    started = time.monotonic()

    def tabulate(measured: Measured) -> Experiment | None:
        needed = {START, design.control, design.primary}
        results = {seed: found for seed, found in measured.items() if needed <= found.keys()}
        if not results:
            return None
        table = pair_table(results, design, dialogues, judges)
        of_run = environment(best_device(), bf16, time.monotonic() - started) | facts
        write_results(target, [table], results, of_run)
        return Experiment(target, [table], results, {})

    tasks = [(seed, name) for seed in seeds for name in (START, *chosen)]
    with Writer(target, "--out"):
        file = target / SETTINGS
        if file.exists():
            begun = parsed(file.read_bytes())
            if isinstance(begun, dict):  # earlier versions did not say
                begun.setdefault("preset_sha256", record["preset_sha256"])
            check_settings(file, begun, record)
        write_aside(file, json_text(record))
        found = measure_rows(rows, tasks, jobs, list, tabulate, say)
    assert found is not None  # no row is missing where measure_rows returns
    return found


def _check_pairs(pairs: Path, datapath: str, held_out: set[str]) -> None:
    """Raise UserError for a file without pairs, or with contexts that are to be measured on."""
    if pairs.suffix != ".jsonl" or not pairs.is_file():
        raise UserError(f"--pairs {pairs}: give a file in JSON Lines, as prosocial improve writes")
    found = own.load_rows(str(pairs), datapath, "train")
    if not all(row["negatives"] for row in found):
        raise UserError(f"--pairs {pairs}: a row has no negatives; give pairs of prosocial improve")
    seen = sum(normalise_text(" ".join(row["context"])) in held_out for row in found)
    if seen:
        raise UserError(
            f"--pairs {pairs}: {counted(seen, 'context')} of it stand in valid of --task, which "
            "measures; leave them out"
        )
