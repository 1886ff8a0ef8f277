"""Training on negatives and pairs, against likelihood, separate passes and TRL's DPO."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.bench import corpus, ours, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Same, Side
from benchmarks.bench.training import LORA_RANK, computes_bf16, encoded


@dataclass
class Negatives:
    """K negatives in one packed pass, against plain likelihood and a pass for each reply."""

    counts: tuple[int, ...] = (1, 2, 4, 8)
    separate: tuple[int, ...] = (1, 4)
    batchsize: int = 4
    name: str = "negatives"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        found = []
        for count in self.counts:
            what = f"{count} negatives, LoRA, auto" if count > 1 else "1 negative, LoRA, auto"
            # What is aimed at; else below linear: K replies more cost less than K steps more.
            plain, separate = (1.4, 0.22) if count == 4 else (1 + count, None)
            found.append(
                Row(
                    f"negatives-{count}",
                    what,
                    "plain likelihood",
                    ours=f"packed-{count}",
                    other="plain",
                    faster=False,
                    target=Target(most=plain),
                    shown=count == 4,
                )
            )
            if count not in self.separate:
                continue
            found.append(
                Row(
                    f"negatives-{count}-separate",
                    what,
                    f"{count + 1} passes",
                    ours=f"packed-{count}",
                    other=f"separate-{count}",
                    faster=False,
                    target=Target(most=separate) if separate else None,
                    shown=count == 4,
                )
            )
        return found

    def agent(self, bench: Bench, count: int, separate: bool, precision: str = "auto") -> Any:
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * self.batchsize, max(self.counts))
        rows = [row | {"negatives": row["negatives"][:count]} for row in rows]
        flags = ["--lora-rank", str(LORA_RANK), "--precision", precision]
        flags += ["--batchsize", str(self.batchsize), "--negatives", str(count)]
        flags += [] if count else ["--contrast-weight", "0"]
        folder = bench.folder / f"{self.name}-{count}"
        agent = ours.build_agent(rows, folder, bench.base, flags)
        if separate:
            ours.score_separately(agent)
        return agent

    def same(self, bench: Bench) -> list[Same]:
        found = []
        for count in self.counts:
            packed = self.agent(bench, count, False, "fp32")
            batches = ours.batches_of(packed, 1)
            [one] = ours.losses_of(packed, batches)
            ours.score_separately(packed)
            [many] = ours.losses_of(packed, batches)
            found.append(Same(f"loss with {count} negatives, packed and separate", one, many))
        return found

    def sides(self, bench: Bench) -> Makers:
        def side(count: int, separate: bool) -> Callable[[], Side]:
            return lambda: ours.Training(self.agent(bench, count, separate), 1)

        makers: Makers = {"plain": side(0, False)}
        for count in self.counts:
            makers[f"packed-{count}"] = side(count, False)
        for count in self.separate:
            makers[f"separate-{count}"] = side(count, True)
        return makers


@dataclass
class Preferences:
    """Pairs of a fitting and an unfitting reply, against TRL's DPO."""

    batchsize: int = 8
    name: str = "pairs"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"preference pairs, LoRA rank {LORA_RANK}, auto, batch {self.batchsize}"
        peer = "TRL DPO, reference precomputed"
        return [Row(self.name, what, peer, target=Target(least=4.5), shown=True)]

    def corpus(self, bench: Bench) -> list[corpus.Row]:
        return corpus.rows(bench.datapath, (bench.pairs + 1) * self.batchsize, 1)

    def agent(self, bench: Bench, precision: str) -> Any:
        flags = ["--lora-rank", str(LORA_RANK), "--precision", precision, "--negatives", "1"]
        flags += ["--batchsize", str(self.batchsize)]
        return ours.build_agent(self.corpus(bench), bench.folder / self.name, bench.base, flags)

    def trainer(self, bench: Bench, bf16: bool, count: int | None = None) -> Any:
        examples = encoded(bench.base, self.corpus(bench)[:count])
        folder = bench.folder / self.name
        lm = peers.load_model(bench.base, LORA_RANK, bf16)
        return peers.dpo_trainer(bench.base, lm, bf16, self.batchsize, folder, examples)

    def same(self, bench: Bench) -> list[Same]:
        """Mean log p of a token of the fitting and the unfitting replies: all that DPO takes."""
        agent = self.agent(bench, "fp32")
        [batch] = ours.batches_of(agent, 1)
        with torch.no_grad():
            scores = agent.score_examples(batch.examples)[0]
        sums = scores.log_probs().view(-1, 2).sum(0)
        tokens = scores.token_counts().view(-1, 2).sum(0)
        data = self.trainer(bench, False, self.batchsize).train_dataset
        return [
            Same(
                f"mean log p of the {kind} replies",
                (sums[i] / tokens[i]).item(),
                (sum(data[f"ref_{name}_logps"]) / tokens[i]).item(),
            )
            for i, (kind, name) in enumerate((("fitting", "chosen"), ("unfitting", "rejected")))
        ]

    def sides(self, bench: Bench) -> Makers:
        def train_peer() -> Side:
            trainer = self.trainer(bench, computes_bf16("auto"))
            size = self.batchsize
            pieces = [
                trainer.train_dataset.select(range(start, start + size))
                for start in range(0, len(trainer.train_dataset), size)
            ]
            return peers.TrainerSide(trainer, pieces)

        return {"ours": lambda: ours.Training(self.agent(bench, "auto"), 1), "peer": train_peer}
