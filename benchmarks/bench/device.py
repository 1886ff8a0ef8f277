"""What a step is beside the machine: bare matrix products, and FlexAttention on a GPU."""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import bench_packed
from benchmarks.bench import corpus, ours, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Refused, Same, Side, timed
from benchmarks.bench.training import LORA_RANK, computes_bf16
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.precision import best_device

SQUARE = 4096


@dataclass
class MatrixRate:
    """A training step, GPT-2-shaped, beside as many operations in bare products of matrices.

    6 operations for each weight and token that is no padding (Kaplan et al. 2020), attention's own
    left out: :func:`operations_of`. The products are of bf16 squares where the step is in bf16:
    what this machine reaches, not what its maker says.
    """

    batchsize: int = 64
    name: str = "mfu"
    gpu: bool = True
    cpu: bool = False
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"matrix rate of a step: all weights of a GPT-2, auto, batch {self.batchsize}"
        peer = "bare products of matrices"
        return [Row(self.name, what, peer, target=Target(least=0.4), measure="wall", shown=True)]

    def agent(self, bench: Bench) -> Any:
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * self.batchsize)
        flags = ["--lora-rank", "0", "--batchsize", str(self.batchsize), *ours.LIKELIHOOD]
        base = peers.random_gpt2(bench.base, bench.folder)
        return ours.build_agent(rows, bench.folder / self.name, base, flags)

    def same(self, bench: Bench) -> list[Same]:
        return []  # of train-parlai, whose step this is

    def sides(self, bench: Bench) -> Makers:
        def products() -> Side:
            agent = self.agent(bench)
            batches = ours.batches_of(agent, bench.pairs + 1)
            operations = [operations_of(agent, batch) for batch in batches]
            del agent
            ours.free()
            dtype = torch.bfloat16 if computes_bf16("auto") else torch.float32
            a, b = (torch.ones(SQUARE, SQUARE, dtype=dtype, device=best_device()) for _ in "ab")

            def multiply(number: int) -> None:
                for _ in range(round(operations[number] / (2 * SQUARE**3))):
                    a @ b

            return timed(multiply)

        return {
            "ours": lambda: ours.Training(self.agent(bench), 1),
            "peer": products,
        }


def operations_of(agent: Any, batch: Any) -> int:
    """Of a training step of likelihood of a GPT-2 on a batch: 6 for each weight and token in it.

    Words and positions are looked up, which takes none; as the output layer, the matrix of the
    words meets only the tokens of replies.
    """
    lm = agent.backbone.lm
    words, positions = lm.transformer.wte.weight.numel(), lm.transformer.wpe.weight.numel()
    blocks = sum(p.numel() for p in agent.backbone.parameters()) - words - positions
    replies = sum(len(example.response) for example in batch.examples)
    return 6 * (blocks * agent.processed_tokens(batch) + words * replies)


@dataclass
class Packed:
    """A training pass over 16 contexts with 5 replies each: packed, against separate."""

    batchsize: int = 16
    negatives: int = 4
    name: str = "packed"
    gpu: bool = True
    cpu: bool = False
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        return [Row("packed", f"{self.what}, block mask", "a pass for each reply")]

    @property
    def what(self) -> str:
        return f"{self.batchsize} contexts, {self.negatives + 1} replies each, forward and backward"

    def backbone(self, bench: Bench) -> Backbone:
        torch.manual_seed(0)
        return Backbone(bench.base, lora_rank=LORA_RANK).to(best_device()).train()

    def batches(self, bench: Bench, backbone: Backbone) -> list[bench_packed.Batch]:
        return bench_packed.make_batches(
            backbone, bench.datapath, bench.pairs + 1, self.batchsize, self.negatives
        )

    def same(self, bench: Bench) -> list[Same]:
        backbone = self.backbone(bench)
        [batch, *_] = self.batches(bench, backbone)
        return [differs(backbone, batch, "separate")]

    def side(self, bench: Bench, way: str) -> Side:
        bf16 = computes_bf16("auto")
        backbone = self.backbone(bench)
        batches = self.batches(bench, backbone)
        bench_packed.set_attention(backbone, way)
        if way == "flex":  # what is compiled for each shape does not count
            for batch in batches:
                bench_packed.step(backbone, "train", way, batch[way], bf16)
        return timed(lambda n: bench_packed.step(backbone, "train", way, batches[n][way], bf16))

    def sides(self, bench: Bench) -> Makers:
        return {
            "ours": lambda: self.side(bench, "packed"),
            "peer": lambda: self.side(bench, "separate"),
        }


@dataclass
class Flex(Packed):
    """The same pass by FlexAttention, against the block mask; a job of its own, since it can fail.

    Its kernels are compiled for the machine at hand.
    """

    name: str = "flex"

    @property
    def rows(self) -> list[Row]:
        return [Row("flex", f"{self.what}, FlexAttention", "the block mask")]

    def same(self, bench: Bench) -> list[Same]:
        torch._dynamo.config.recompile_limit = 64  # each shape compiles once
        backbone = self.backbone(bench)
        [batch, *_] = self.batches(bench, backbone)
        if why := bench_packed.why_not_flex(backbone, batch, computes_bf16("auto")):
            raise Refused(f"FlexAttention {why}")
        return [differs(backbone, batch, "flex")]

    def sides(self, bench: Bench) -> Makers:
        return {
            "ours": lambda: self.side(bench, "flex"),
            "peer": lambda: self.side(bench, "packed"),
        }


def differs(backbone: Backbone, batch: bench_packed.Batch, way: str) -> Same:
    """How much a token's log p differs between packed and another way, at most."""
    what = f"a token's log p, packed and {way}: the largest difference"
    return Same(what, bench_packed.difference_from_packed(backbone, batch, way), 0.0)
