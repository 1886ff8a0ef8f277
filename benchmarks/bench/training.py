"""Training by likelihood, against Trainer, SFTTrainer and ParlAI's GPT-2."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
from peft.tuners.lora.layer import Linear

from benchmarks.bench import corpus, ours, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import (
    TOLERANCE,
    TOLERANCE_BF16,
    Same,
    Side,
    timed,
)
from parlai_prosocial.models.attention import FUSED
from parlai_prosocial.models.chat_template import load_tokenizer
from parlai_prosocial.models.lean_lora import LeanLinear
from parlai_prosocial.models.precision import best_device, bf16_is_faster
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT, Prompt

LORA_RANK = 8
COMPARED = 16
CONTEXT, REPLY = 256, 128
"""Tokens, as the agent's ``--text-truncate`` and ``--label-truncate`` have them."""


def encoded(base: Path, rows: list[corpus.Row]) -> list[Any]:
    """Rows in token ids: ``context``, ``response`` and ``negatives``."""
    prompt = Prompt(load_tokenizer(base), DEFAULT_SYSTEM_PROMPT, False)
    return [
        SimpleNamespace(
            context=prompt.encode_context(corpus.text_of(row), CONTEXT),
            response=prompt.encode_response(row["response"], REPLY),
            negatives=[prompt.encode_response(text, REPLY) for text in row["negatives"]],
        )
        for row in rows
    ]


def computes_bf16(precision: str) -> bool:
    return precision == "bf16" or (precision == "auto" and bf16_is_faster(best_device()))


def on_gpu() -> bool:
    return best_device().type == "cuda"


def by_piece(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@dataclass
class Likelihood:
    """A step of likelihood training, against Hugging Face's Trainer and TRL's SFTTrainer.

    Attributes:
        lora: train an adapter of rank :data:`LORA_RANK`, else all weights.
        precision: of ours; the peer computes in the same.
        batchsize: rows a step.
        steps: in a piece of work, over which the Trainer groups by length.
        sft: time TRL's SFTTrainer too.
        speed: the target against the Trainer.
        shown: its row stands in the README.
        pieces: which pieces of work a process has the rows of, in that order; None for all.
        lean: memory is measured or short, so the peer takes the attention that holds the least and
            not the fastest.
    """

    lora: bool
    precision: str
    batchsize: int
    steps: int
    sft: bool = False
    speed: float | None = None
    shown: bool = False
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None
    pieces: tuple[int, ...] | None = None
    lean: bool = False

    @property
    def name(self) -> str:
        weights = "lora" if self.lora else "full"
        return f"train-{weights}-{self.precision}-{self.batchsize}"

    @property
    def rank(self) -> int:
        return LORA_RANK if self.lora else 0

    @property
    def what(self) -> str:
        weights = f"LoRA rank {LORA_RANK}" if self.lora else "all weights"
        return f"training, {weights}, {self.precision}, batch {self.batchsize}"

    @property
    def rows(self) -> list[Row]:
        target = Target(least=self.speed) if self.speed else None
        found = [
            Row(
                self.name, self.what, "HF Trainer, length grouping", target=target, shown=self.shown
            )
        ]
        if self.sft:
            found.append(Row(f"{self.name}-sft", self.what, "TRL SFTTrainer, packing", other="sft"))
        return found

    def flags(self, precision: str) -> list[str]:
        flags = ["--lora-rank", str(self.rank), "--precision", precision]
        return [*flags, "--batchsize", str(self.batchsize), *ours.LIKELIHOOD]

    def corpus(self, bench: Bench) -> list[corpus.Row]:
        size = self.batchsize * self.steps
        pieces = by_piece(corpus.rows(bench.datapath, (bench.pairs + 1) * size), size)
        numbers = range(len(pieces)) if self.pieces is None else self.pieces
        return [row for number in numbers for row in pieces[number]]

    def agent(self, bench: Bench, precision: str) -> Any:
        return ours.build_agent(
            self.corpus(bench), bench.folder / self.name, bench.base, self.flags(precision)
        )

    def trainer(self, bench: Bench, kind: str, bf16: bool) -> tuple[Any, list[list[dict]]]:
        rows = [peers.as_row(example) for example in encoded(bench.base, self.corpus(bench))]
        pieces = by_piece(rows, self.batchsize * self.steps)
        folder = bench.folder / self.name
        lm = peers.load_model(bench.base, self.rank, bf16, self.lean)
        if kind == "sft":
            return peers.sft_trainer(bench.base, lm, bf16, folder, pieces[0]), pieces
        return peers.hf_trainer(bench.base, lm, bf16, self.batchsize, folder, pieces[0]), pieces

    def same(self, bench: Bench) -> list[Same]:
        """The losses of a batch, of at most :data:`COMPARED` rows: memory in fp32 is more."""
        if self.batchsize > COMPARED:
            return replace(self, batchsize=COMPARED).same(bench)
        found = []
        for precision in dict.fromkeys(["fp32", self.precision]):
            bf16 = computes_bf16(precision)
            agent = self.agent(bench, precision)
            [loss] = ours.losses_of(agent, ours.batches_of(agent, 1))
            del agent
            for kind in ["peer", "sft"] if self.sft else ["peer"]:
                trainer, pieces = self.trainer(bench, kind, bf16)
                rows = pieces[0][: self.batchsize]
                if kind == "sft":
                    rows = list(peers.sft_pieces(trainer, [rows])[0])
                other = peers.trainer_loss(trainer, rows)
                del trainer
                ours.free()
                what = f"loss in {'bf16' if bf16 else 'fp32'}, ours and the {kind}'s"
                found.append(Same(what, loss, other, TOLERANCE_BF16 if bf16 else TOLERANCE))
        return found

    def sides(self, bench: Bench) -> Makers:
        def train_ours() -> Side:
            return ours.Training(self.agent(bench, self.precision), self.steps)

        def train_peer(kind: str) -> Side:
            trainer, pieces = self.trainer(bench, kind, computes_bf16(self.precision))
            packed = (
                peers.sft_pieces(trainer, pieces)
                if kind == "sft"
                else [datasets.Dataset.from_list(piece) for piece in pieces]
            )
            return peers.TrainerSide(trainer, packed)

        makers: Makers = {"ours": train_ours, "peer": lambda: train_peer("peer")}
        if self.sft:
            makers["sft"] = lambda: train_peer("sft")
        return makers


@dataclass
class AgainstParlAI:
    """All weights of one random GPT-2, against ``-m hugging_face/gpt2``."""

    batchsize: int = 8
    name: str = "train-parlai"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"training, all weights of a random GPT-2, auto, batch {self.batchsize}"
        return [
            Row(self.name, what, "ParlAI hugging_face/gpt2", target=Target(least=3), shown=True)
        ]

    def corpus(self, bench: Bench) -> list[corpus.Row]:
        return corpus.rows(bench.datapath, (bench.pairs + 1) * self.batchsize)

    def agent(self, bench: Bench, precision: str) -> Any:
        flags = ["--lora-rank", "0", "--precision", precision]
        flags += ["--batchsize", str(self.batchsize), *ours.LIKELIHOOD]
        base = peers.random_gpt2(bench.base, bench.folder)
        return ours.build_agent(self.corpus(bench), bench.folder / self.name, base, flags)

    def parlai(self, bench: Bench) -> tuple[Any, list[Any]]:
        base = peers.random_gpt2(bench.base, bench.folder)
        flags = ["--batchsize", str(self.batchsize), "--skip-generation", "true"]
        peer = peers.ParlAIGpt2(base, bench.folder / self.name, flags)
        prompt = Prompt(load_tokenizer(base), DEFAULT_SYSTEM_PROMPT, False)
        rows = self.corpus(bench)
        texts = [prompt.tokenizer.decode(prompt.encode_context(corpus.text_of(r))) for r in rows]
        labels = [" " + row["response"] for row in rows]
        pieces = [
            peer.batch(texts[start:][: self.batchsize], labels[start:][: self.batchsize], "labels")
            for start in range(0, len(rows), self.batchsize)
        ]
        return peer, pieces

    def same(self, bench: Bench) -> list[Same]:
        agent = self.agent(bench, "fp32")
        [loss] = ours.losses_of(agent, ours.batches_of(agent, 1))
        peer, pieces = self.parlai(bench)
        return [Same("loss in fp32, ours and ParlAI's", loss, peer.loss(pieces[0]))]

    def sides(self, bench: Bench) -> Makers:
        def train_peer() -> Side:
            peer, pieces = self.parlai(bench)
            return timed(lambda number: peer.act(pieces[number]))

        return {"ours": lambda: ours.Training(self.agent(bench, "auto"), 1), "peer": train_peer}


@dataclass
class Batches:
    """A step of 32 rows against four steps of 8: the time of a step grows as its rows do."""

    few: int = 8
    many: int = 32
    name: str = "linear"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = 3

    @property
    def rows(self) -> list[Row]:
        what = f"a step of {self.many}, LoRA, auto"
        peer = f"{self.many // self.few} steps of {self.few}"
        return [Row(self.name, what, peer, faster=False, target=Target(most=1.05))]

    def agent(self, bench: Bench, batchsize: int) -> Any:
        flags = ["--lora-rank", str(LORA_RANK), "--batchsize", str(batchsize), *ours.LIKELIHOOD]
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * self.many)
        folder = bench.folder / f"{self.name}-{batchsize}"
        return ours.build_agent(rows, folder, bench.base, flags)

    def same(self, bench: Bench) -> list[Same]:
        return []  # one side with itself

    def sides(self, bench: Bench) -> Makers:
        return {
            "ours": lambda: ours.Training(self.agent(bench, self.many), 1),
            "peer": lambda: ours.Training(self.agent(bench, self.few), self.many // self.few),
        }


@dataclass
class Flags:
    """What each flag or fast path changes by itself, ours against ours."""

    batchsize: int = 8
    few: int = 2
    name: str = "flags"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"training, batch {self.batchsize}, "
        freq = self.batchsize // self.few
        attention = Row(
            "flag-attention", what + "the kernel of the trial", "the fused one", other="fused"
        )
        return [
            Row("flag-precision", what + "--precision auto", "--precision fp32", other="fp32"),
            Row("flag-lora", what + f"--lora-rank {LORA_RANK}", "--lora-rank 0", other="full"),
            Row(
                "flag-batchsize",
                what + f"--batchsize {self.batchsize}",
                f"--batchsize {self.few} --update-freq {freq}",
                other="few",
            ),
            *([] if on_gpu() else [attention]),  # there is no trial there
            Row("flag-lean", what + "LoRA layers in one dtype", "peft's forward", other="peft"),
        ]

    def agent(
        self, bench: Bench, precision: str = "auto", rank: int = LORA_RANK, few: bool = False
    ) -> Any:
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * self.batchsize)
        size = self.few if few else self.batchsize
        flags = ["--lora-rank", str(rank), "--precision", precision, *ours.LIKELIHOOD]
        flags += ["--batchsize", str(size), "--update-freq", str(self.batchsize // size)]
        folder = bench.folder / f"{self.name}-{precision}-{rank}-{size}"
        return ours.build_agent(rows, folder, bench.base, flags)

    def same(self, bench: Bench) -> list[Same]:
        """A new adapter is zero, so that all of them begin with the base's loss."""
        losses = []
        for precision, rank in (("auto", LORA_RANK), ("fp32", LORA_RANK), ("auto", 0)):
            agent = self.agent(bench, precision, rank)
            losses += ours.losses_of(agent, ours.batches_of(agent, 1))
        return [Same("loss of two settings", losses[0], loss, TOLERANCE_BF16) for loss in losses]

    def sides(self, bench: Bench) -> Makers:
        def fused() -> Side:
            agent = self.agent(bench)
            agent.attention_kernel = FUSED
            return ours.Training(agent, 1)

        def peft() -> Side:
            agent = self.agent(bench)
            for module in agent.backbone.modules():
                if type(module) is LeanLinear:
                    module.__class__ = Linear
            return ours.Training(agent, 1)

        def few() -> Side:
            return ours.Training(self.agent(bench, few=True), self.batchsize // self.few)

        return {
            "ours": lambda: ours.Training(self.agent(bench), 1),
            "fp32": lambda: ours.Training(self.agent(bench, precision="fp32"), 1),
            "full": lambda: ours.Training(self.agent(bench, rank=0), 1),
            "few": few,
            **({} if on_gpu() else {"fused": fused}),
            "peft": peft,
        }
