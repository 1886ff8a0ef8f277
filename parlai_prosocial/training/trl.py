"""TRL's own preference trainers on our pairs: "why not DPO?", asked in our own table.

From the same model and the same pairs (context c, fitting reply y+, unfitting reply y-)::

    dpo     -log sigmoid(beta * (log p(y+|c)/p_ref(y+|c) - log p(y-|c)/p_ref(y-|c)))
    simpo   -log sigmoid(beta * (mean log p(y+|c) - mean log p(y-|c)) - gamma)

DPO (Rafailov et al. 2023, arXiv 2305.18290) sums log p over a reply's tokens and holds it against a
reference, the model that it starts from; its authors prescribe fine-tuning on the fitting replies
before it. beta is 0.1, their default and TRL's. SimPO (Meng et al. 2024, arXiv 2405.14734) needs no
reference; beta is 2, the smallest that they use, and gamma 0.5, TRL's default. TRL has it as a form
of CPO, whose likelihood term is switched off here.

Our n-pair differs in that a context's K negatives compete in one softmax, each with its social
weight, and that L_MLE stays in every step. With K = 1 and w = 1, on mean log p, it is SimPO with
beta = 1/tau and margin 0, plus L_MLE.
"""

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from parlai.core.agents import create_agent
from parlai.core.worlds import create_task
from parlai.scripts.train_model import TrainModel, set_seed
from parlai.utils.logging import set_log_level
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from parlai_prosocial.errors import UserError

BASELINES = ("dpo", "simpo")
BATCH_SIZE = 8
DPO_BETA = 0.1
SIMPO_BETA, SIMPO_GAMMA = 2.0, 0.5
WEIGHT_DECAY = 0.01
"""Torch's default for AdamW, which ParlAI leaves as it is and transformers sets to 0."""


@dataclass(frozen=True)
class Pair:
    """One preference in token ids; both replies end with the end-of-turn token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """That the trained model processes: TRL runs the context once with each reply."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class BaselineTraining:
    """What a baseline's training took; fields as in ``training.recipe.StepResult``."""

    steps: int
    tokens: int
    seconds: float


def check_baselines(baselines: Mapping[str, str]) -> None:
    """Raise UserError where an arm's baseline is unknown, or TRL is missing."""
    for arm, baseline in baselines.items():
        if baseline not in BASELINES:
            raise UserError(
                f'arms.json: {arm}: "then": "{baseline}": use one of {", ".join(BASELINES)}'
            )
    try:
        import trl  # noqa: F401
    except ImportError:
        raise UserError(
            f"the {next(iter(baselines))} arm needs TRL: pip install 'parlai-prosocial[bench]'; "
            "or name the arms to run with --arms"
        ) from None


def train_baseline(
    baseline: str, arguments: Sequence[str], budget: int, model_file: str, title: str
) -> BaselineTraining:
    """Train a checkpoint on with TRL and save the result in our layout.

    LoRA: the checkpoint's adapter is trained on, as our own step 2 does it, and TRL keeps a frozen
    copy of it as DPO's reference. So no second model is in memory, and the rank stays as it is.
    The reference's passes are not in the token count; they are in the seconds.

    Stopped half-way, a baseline begins anew: a step takes minutes, and nothing of it is unpickled.

    Args:
        baseline: dpo or simpo.
        arguments: of ``parlai train_model`` for the step that has the pairs, with ``--init-model``
            the checkpoint to go on from. Learning rate, warm-up, clipping, seed and precision are
            taken from them too; the schedule is linear.
        budget: steps are taken until so many tokens are processed.
        model_file: where the result goes.
        title: of the progress bar.
    """
    set_log_level(logging.WARNING)
    disable_progress_bar()
    # TRL reports each use to the hub; nothing here asks the network for anything.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    opt = TrainModel.setup_args().parse_args(list(arguments))
    agent = create_agent(opt)
    backbone = agent.backbone
    if backbone.is_encoder_decoder:
        raise UserError(f"--backbone {agent.backbone_name}: TRL trains causal models only")
    pairs = take_pairs(step_pairs(agent), budget)
    trainer = build_trainer(baseline, agent, pairs, Path(model_file).parent)
    with tqdm(total=trainer.args.max_steps, desc=title, unit="step") as bar:
        trainer.add_callback(_Progress(bar))
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
    if baseline == "dpo" and backbone.adapted:
        backbone.model.delete_adapter("ref")
    agent.save(model_file)
    return BaselineTraining(trainer.args.max_steps, sum(pair.tokens for pair in pairs), seconds)


def step_pairs(agent: Any) -> Iterator[Pair]:
    """The endless pairs of an agent's own training: its batches, negatives and token ids.

    Raises:
        UserError: its task has no negatives.
    """
    batches: list[Any] = []
    agent.train_step = batches.append
    world = create_task(agent.opt, agent)
    set_seed(agent.opt["seed"] or 0)  # here, as the training loop does, for the same order
    found = False
    while found or world.get_total_epochs() < 1:
        world.parley()
        for example in batches.pop().examples:
            for negative in example.negatives:
                found = True
                yield Pair(example.context, example.response, negative)
        agent._number_training_updates += 1  # which negatives are drawn depends on it
    raise UserError(f"-t {agent.opt['task']}: no example has negatives, so there are no pairs")


def take_pairs(pairs: Iterator[Pair], budget: int) -> list[Pair]:
    """Whole batches of pairs until their tokens reach the budget."""
    taken: list[Pair] = []
    tokens = 0
    while tokens < budget:
        batch = [next(pairs) for _ in range(BATCH_SIZE)]
        tokens += sum(pair.tokens for pair in batch)
        taken += batch
    return taken


def build_trainer(baseline: str, agent: Any, pairs: Sequence[Pair], folder: Path) -> Any:
    """TRL's trainer for one pass over the pairs; TRL shuffles them by the seed.

    The order is shuffled because an example's pairs follow each other in step 1.
    """
    import datasets
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    datasets.disable_progress_bars()
    opt = agent.opt
    tokenizer = copy.deepcopy(agent.backbone.prompt.tokenizer)
    tokenizer.pad_token_id = agent.backbone.pad_id
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": len(pairs) // BATCH_SIZE,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": opt["learningrate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": max(0, opt["warmup_updates"]),
        "max_grad_norm": opt["gradient_clip"],
        "weight_decay": WEIGHT_DECAY,
        "max_length": opt["text_truncate"] + opt["label_truncate"],  # none is longer
        "seed": opt["seed"] or 0,
        "bf16": agent.bf16,
        "use_cpu": not agent.use_cuda,
        "dataloader_pin_memory": agent.use_cuda,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    trainer_class: Any
    config: Any
    if baseline == "dpo":
        rows = [_dpo_row(pair) for pair in pairs]
        trainer_class, config = DPOTrainer, DPOConfig(beta=DPO_BETA, **common)
    else:
        rows = [_simpo_row(pair) for pair in pairs]
        common |= {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": SIMPO_GAMMA}
        trainer_class, config = CPOTrainer, CPOConfig(beta=SIMPO_BETA, **common)
    texts = {
        name: tokenizer.batch_decode([getattr(pair, name) for pair in pairs])
        for name in ("prompt", "chosen", "rejected")
    }
    trainer = trainer_class(
        model=agent.backbone.model,
        args=config,
        train_dataset=datasets.Dataset.from_dict(texts),
        processing_class=tokenizer,
    )
    # TRL has made ids of the texts; a reply that was cut inside a word gets others than it had.
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dpo_row(pair: Pair) -> dict[str, list[int]]:
    return {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}


def _simpo_row(pair: Pair) -> dict[str, list[int]]:
    row = {}
    for name, reply in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[f"{name}_input_ids"] = pair.prompt + reply
        row[f"{name}_attention_mask"] = [1] * len(pair.prompt + reply)
        row[f"{name}_labels"] = [-100] * len(pair.prompt) + reply
    return row


class _Progress(TrainerCallback):
    """Moves a progress bar of ours; TRL's own has no title."""

    def __init__(self, bar: Any):
        self.bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)
