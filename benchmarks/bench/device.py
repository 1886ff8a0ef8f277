"""What a step is beside the machine: bare matrix products, and FlexAttention on a GPU."""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import bench_packed
from benchmarks.bench import corpus, ours, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Same, Side, timed
from benchmarks.bench.training import LORA_RANK, computes_bf16
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.precision import best_device

SQUARE = 4096


@dataclass
class MatrixRate:
    """A training step, GPT-2-shaped, beside as many operations in bare products of matrices.

    6 operations for each weight and token that is no padding (Kaplan et al. 2020), attention's own
    left out. The products are of bf16 squares where the step is in bf16: what this machine
    reaches, not what its maker says.
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
            weights = sum(p.numel() for p in agent.backbone.parameters())
            batches = ours.batches_of(agent, bench.pairs + 1)
            operations = [6 * weights * agent.processed_tokens(batch) for batch in batches]
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


@dataclass
class Packed:
    """A training pass over 16 contexts with 5 replies each: packed, FlexAttention, separate."""

    batchsize: int = 16
    negatives: int = 4
    name: str = "packed"
    gpu: bool = True
    cpu: bool = False
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"{self.batchsize} contexts, {self.negatives + 1} replies each, forward and backward"
        return [
            Row("packed", f"{what}, block mask", "a pass for each reply", other="separate"),
            Row("flex", f"{what}, FlexAttention", "the block mask", ours="flex", other="ours"),
        ]

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
        return [
            Same(
                f"a token's log p, packed and {way}: the largest difference",
                bench_packed.difference_from_packed(backbone, batch, way),
                0.0,
            )
            for way in ("separate", "flex")
        ]

    def sides(self, bench: Bench) -> Makers:
        bf16 = computes_bf16("auto")
        torch._dynamo.config.recompile_limit = 64  # each shape compiles once

        def side(way: str) -> Side:
            backbone = self.backbone(bench)
            batches = self.batches(bench, backbone)
            bench_packed.set_attention(backbone, way)
            if way == "flex":  # what is compiled for each shape does not count
                for batch in batches:
                    bench_packed.step(backbone, "train", way, batch[way], bf16)
            return timed(lambda n: bench_packed.step(backbone, "train", way, batches[n][way], bf16))

        return {
            "ours": lambda: side("packed"),
            "separate": lambda: side("separate"),
            "flex": lambda: side("flex"),
        }
