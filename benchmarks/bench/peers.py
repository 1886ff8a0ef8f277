"""What a user would pick instead: Hugging Face's Trainer, TRL, ``generate``, ParlAI's own GPT-2."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.scripts.train_model import TrainModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.bench.measure import Clock, Usage
from benchmarks.bench.ours import LEARNING_RATE
from parlai_prosocial.training.trl import WEIGHT_DECAY

SFT_LENGTH = 1024
"""Tokens of a packed row of TRL's: about as many as a batch of 8 has."""
GPT2_TOKENS = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
"""ParlAI's own special tokens, there from the start, so that it adds none."""


def attention_of(bf16: bool, lean: bool) -> str:
    """The kernel of attention that is best for a trainer, as transformers names it.

    In bf16 on a CPU plain products took 2.2, 2.6 and 3.6 CPU seconds for a step of SmolLM2-135M's
    LoRA on 8 rows of 88, 106 and 150 tokens, torch's fused kernel 2.7, 3.4 and 4.5; on a packed
    row of 512 tokens 1.9 and 2.2 (one thread, an EPYC with AVX512-BF16, busy). But they keep the
    weights of attention, so that the fused one has the smaller peak.
    """
    return "eager" if bf16 and not lean and not torch.cuda.is_available() else "sdpa"


def load_model(base: Path, lora_rank: int, bf16: bool, lean: bool = False) -> Any:
    """The base, with a new adapter as ours has it: zero, on all linear layers, in float32.

    A base that is frozen is held in bfloat16 where products are in it, as ours is: autocast then
    need not cast it in every pass. Weights that are trained are in float32.

    Args:
        base: a Hugging Face folder.
        lora_rank: 0 to train all weights.
        bf16: compute in bfloat16.
        lean: see :func:`attention_of`.
    """
    dtype = torch.bfloat16 if bf16 and lora_rank else torch.float32
    lm = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation=attention_of(bf16, lean)
    )
    if torch.cuda.is_available():
        lm.to("cuda")
    if not lora_rank:
        return lm
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        r=lora_rank,
        lora_alpha=2 * lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(lm, config)


class StepClock(TrainerCallback):
    """Times a Trainer from its first step to its last: loading and set-up are not counted."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.usage = Usage(0, 0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self.usage = self.clock.stop()


class TrainerSide:
    """A real ``Trainer.train()`` over the rows of each piece of work.

    Args:
        trainer: with any data set.
        pieces: the data set of each piece of work.
    """

    def __init__(self, trainer: Any, pieces: Sequence[datasets.Dataset]):
        self.trainer, self.pieces = trainer, pieces
        self.clock = StepClock()
        trainer.add_callback(self.clock)
        trainer.remove_callback(PrinterCallback)

    def __call__(self, number: int) -> Usage:
        self.trainer.train_dataset = self.pieces[number]
        self.trainer.train()
        return self.clock.usage


def arguments_of(folder: Path, batchsize: int, bf16: bool) -> dict[str, Any]:
    """Of every trainer: one pass, our optimiser's settings, nothing written."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": batchsize,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": WEIGHT_DECAY,
        "bf16": bf16,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def as_row(example: Any) -> dict[str, list[int]]:
    """An example of our agent's as a Trainer takes it, the loss on the reply alone."""
    ids = example.context + example.response
    return {"input_ids": ids, "labels": [-100] * len(example.context) + example.response}


def hf_trainer(
    base: Path, lm: Any, bf16: bool, batchsize: int, folder: Path, rows: list[dict]
) -> Trainer:
    """Hugging Face's Trainer with dynamic padding and rows grouped by length."""
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(base), padding=True)
    return Trainer(
        model=lm,
        args=TrainingArguments(
            train_sampling_strategy="group_by_length", **arguments_of(folder, batchsize, bf16)
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        data_collator=collator,
    )


def sft_trainer(base: Path, lm: Any, bf16: bool, folder: Path, rows: list[dict]) -> Any:
    """TRL's SFTTrainer with packing, a packed row of :data:`SFT_LENGTH` tokens a step."""
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=lm,
        args=SFTConfig(
            packing=True,
            max_length=SFT_LENGTH,
            **arguments_of(folder, 1, bf16),
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )


def sft_pieces(trainer: Any, pieces: Sequence[list[dict]]) -> list[datasets.Dataset]:
    """Each piece of work packed as TRL packs a data set."""
    from trl import pack_dataset

    return [
        pack_dataset(datasets.Dataset.from_list(rows), SFT_LENGTH, trainer.args.packing_strategy)
        for rows in pieces
    ]


@torch.no_grad()
def trainer_loss(trainer: Any, rows: Sequence[dict]) -> float:
    """Mean token loss of rows, batch by batch as the trainer computes it, in its precision."""
    model = trainer.model.eval()
    total = count = 0.0
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        batch = trainer._prepare_inputs(trainer.data_collator(list(rows[start : start + size])))
        tokens = (batch["labels"] != -100).sum().item()
        with trainer.accelerator.autocast():  # only train() wraps the model in it
            total += trainer.compute_loss(model, batch).item() * tokens
        count += tokens
    model.train()
    return total / count


def dpo_trainer(
    base: Path, lm: Any, bf16: bool, batchsize: int, folder: Path, examples: Sequence[Any]
) -> Any:
    """TRL's DPO, its reference's log p computed before: that is not in its time."""
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=lm,
        args=DPOConfig(
            precompute_ref_log_probs=True,
            max_length=None,
            remove_unused_columns=False,
            **arguments_of(folder, batchsize, bf16),
        ),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    # The ids are ours, so that both sides have the same; their reference is what DPO computes.
    trainer.train_dataset = datasets.Dataset.from_list([dpo_row(example) for example in examples])
    trainer.train_dataset = trainer._precompute_ref_logps(trainer.train_dataset, "train", batchsize)
    return trainer


def dpo_row(example: Any) -> dict[str, list[int]]:
    return {
        "prompt_ids": example.context,
        "chosen_ids": example.response,
        "rejected_ids": example.negatives[0],
    }


def random_gpt2(base: Path, folder: Path) -> Path:
    """A random GPT-2 with the base's words: ParlAI has no other model of Hugging Face's kind."""
    place = folder / "gpt2"
    if (place / "config.json").exists():
        return place
    words = json.loads(AutoTokenizer.from_pretrained(base).backend_tokenizer.to_str())["model"]
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps(words["vocab"]), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in words["merges"]]
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    tokenizer = GPT2Tokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), **GPT2_TOKENS, model_max_length=1024
    )
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    GPT2LMHeadModel(config).save_pretrained(place)
    return place


class ParlAIGpt2:
    """``-m hugging_face/gpt2`` on texts that are ours token by token.

    Its batches are sorted by length, as ``--dynamic-batching batchsort`` sorts them at best, and
    no world stands between: both are to its gain. ``--fp16`` does nothing on a CPU.

    Args:
        model: a GPT-2 folder.
        folder: for what ParlAI writes.
        flags: more of ParlAI's.
    """

    def __init__(self, model: Path, folder: Path, flags: Sequence[str]):
        arguments = ["--model", "hugging_face/gpt2", "--model-name", str(model)]
        arguments += ["--datapath", str(folder / "data"), "--task", "integration_tests"]
        arguments += ["--optimizer", "adamw", "--learningrate", str(LEARNING_RATE)]
        arguments += ["--lr-scheduler", "none", "--gradient-clip", "1.0", *flags]
        self.agent = create_agent(TrainModel.setup_args().parse_args(arguments))

    def batch(self, texts: Sequence[str], labels: Sequence[str], kind: str) -> list[Message]:
        """What the agent observes of so many episodes of one turn each."""
        observations = []
        for text, label in zip(texts, labels, strict=True):
            clone = self.agent.clone() if hasattr(self.agent, "clone") else self.agent
            clone.reset()
            message = {"id": "bench", "text": text, kind: [label], "episode_done": True}
            observations.append(clone.observe(Message(message)))
        return observations

    def act(self, observations: list[Message]) -> list[Message]:
        """A step of training, or replies."""
        return self.agent.batch_act(observations)

    @torch.no_grad()
    def loss(self, observations: list[Message]) -> float:
        """Mean token loss of the labels."""
        self.agent.is_training = True
        batch = self.agent.batchify(observations)
        return self.agent.compute_loss(batch).item()
