"""How much faster is one packed pass over a context and its replies than a pass for each reply?

Times a training step (forward and backward, LoRA as the agent trains it) and plain scoring of the
same real dialogues in both ways, interleaved in one run, so that a machine which slows down does
so for both. The separate passes get what is best for them: right-padded rows need no attention
mask, and only the positions that predict a reply reach the output layer. Before anything is timed,
both ways must give the same numbers.

    python benchmarks/bench_packed.py --device cpu
    python benchmarks/bench_packed.py --device cuda --batchsize 32 --json packed.json

Real dialogues: the bundled Self-dialogue sample, five turns of context each. The negatives are
replies of other dialogues, since only their number and length matter here.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import click
import torch
from parlai.core.params import ParlaiParser

from parlai_prosocial.agents.options import DEFAULT_BACKBONE
from parlai_prosocial.agents.prosocial import resolve_backbone
from parlai_prosocial.data.self_dialogue import load_dialogues
from parlai_prosocial.errors import UserError
from parlai_prosocial.folders import json_text, write_aside
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.packing import PackedBatch, pack, pack_separately
from parlai_prosocial.models.precision import bf16_is_faster
from parlai_prosocial.models.scores import token_log_probs

CONTEXT_TURNS = 5
MODES = ("train", "score")
WAYS = ("packed", "separate")


def packed_log_probs(backbone: Backbone, batch: PackedBatch) -> torch.Tensor:
    """(T,) log p of every reply token, in one pass over shared contexts."""
    return backbone(batch).token_log_probs


def separate_log_probs(backbone: Backbone, batch: PackedBatch) -> torch.Tensor:
    """(T,) the same from rows that repeat the context for each reply."""
    hidden = backbone.lm.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    queries = hidden.flatten(0, 1)[batch.query_positions]  # (T, hidden)
    logits = backbone.lm.get_output_embeddings()(queries)  # (T, vocabulary)
    return token_log_probs(logits, batch.target_ids)[0]


LOG_PROBS = {"packed": packed_log_probs, "separate": separate_log_probs}
PACK = {"packed": pack, "separate": pack_separately}


def make_batches(
    backbone: Backbone, datapath: str, count: int, batchsize: int, negatives: int
) -> list[dict[str, PackedBatch]]:
    """``count`` batches, each packed in both ways."""
    dialogues = load_dialogues(datapath, "train")
    dialogues = [d["turns"] for d in dialogues if len(d["turns"]) > CONTEXT_TURNS]
    if len(dialogues) < count * batchsize:
        raise UserError(
            f"--batchsize {batchsize}: {count} batches need {count * batchsize} dialogues and "
            f"there are {len(dialogues)}; take fewer --repeats"
        )
    encode = backbone.prompt.encode_response
    replies = [encode(turns[CONTEXT_TURNS], 128) for turns in dialogues]
    batches = []
    for first in range(0, count * batchsize, batchsize):
        chosen = range(first, first + batchsize)
        contexts = [
            backbone.prompt.encode_context("\n".join(dialogues[i][:CONTEXT_TURNS]), 256)
            for i in chosen
        ]
        candidates = [
            [replies[(i + j) % len(replies)] for j in range(negatives + 1)] for i in chosen
        ]
        batches.append(
            {
                way: PACK[way](contexts, candidates, backbone.pad_id).to(backbone.device)
                for way in WAYS
            }
        )
    return batches


@torch.no_grad()
def check_equal(backbone: Backbone, batch: dict[str, PackedBatch]) -> float:
    """Largest difference of log p between the two ways, in float32."""
    scores = {way: LOG_PROBS[way](backbone, batch[way]) for way in WAYS}
    return (scores["packed"] - scores["separate"]).abs().max().item()


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """Wall time of one step, its work on the GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def run(
    backbone: Backbone, batches: Sequence[dict[str, PackedBatch]], burn_in: int, bf16: bool
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each batch in each mode and way; the first ``burn_in`` batches don't count."""
    device = backbone.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    seconds: dict[str, dict[str, list[float]]] = {mode: {way: [] for way in WAYS} for mode in MODES}

    def step(mode: str, way: str, batch: PackedBatch) -> None:
        with torch.set_grad_enabled(mode == "train"), autocast:
            loss = -LOG_PROBS[way](backbone, batch).mean()
        if mode == "train":
            loss.backward()
            backbone.zero_grad(set_to_none=True)

    for mode in MODES:
        for i, batch in enumerate(batches):
            # Who goes first alternates: the second one finds warmer caches.
            for way in WAYS if i % 2 else reversed(WAYS):
                taken = seconds_of(lambda m=mode, w=way, b=batch: step(m, w, b[w]), device)
                if i >= burn_in:
                    seconds[mode][way].append(taken)
    return seconds


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--base", default=DEFAULT_BACKBONE, show_default=True, help="A causal backbone.")
@click.option("--batchsize", type=click.IntRange(1), default=4, show_default=True)
@click.option("--negatives", type=click.IntRange(1), default=4, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--burn-in", type=click.IntRange(0), default=1, show_default=True)
@click.option("--lora-rank", type=click.IntRange(0), default=16, show_default=True)
@click.option("--datapath", default=None, help="ParlAI's data path.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all times there.")
def main(
    device: str,
    base: str,
    batchsize: int,
    negatives: int,
    repeats: int,
    burn_in: int,
    lora_rank: int,
    datapath: str | None,
    json_file: Path | None,
) -> None:
    """Time a packed pass against separate passes."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    opt = ParlaiParser(True, False).parse_args(["--datapath", datapath] if datapath else [])
    folder = resolve_backbone(base, opt["datapath"])
    torch.manual_seed(0)
    where = torch.device(device)
    bf16 = bf16_is_faster(where)
    # Float32 weights for the check; autocast makes the timed steps bf16 where that pays.
    backbone = Backbone(folder, lora_rank=lora_rank).to(where).train()
    if not getattr(backbone.scorer, "shares_context", False):
        raise UserError(f"--base {base}: needs a causal model that takes a block attention mask")
    batches = make_batches(backbone, opt["datapath"], burn_in + repeats, batchsize, negatives)
    difference = check_equal(backbone, batches[0])
    if difference > 1e-3:
        raise UserError(f"--base {base}: packed and separate log p differ by {difference:.1e}")

    seconds = run(backbone, batches, burn_in, bf16)
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": "bf16 autocast" if bf16 else "fp32",
        "base": base,
        "batchsize": batchsize,
        "negatives": negatives,
        "lora_rank": lora_rank,
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "peft")},
        "largest_difference": difference,
        "tokens": {
            way: statistics.median(b[way].input_ids.numel() for b in batches[burn_in:])
            for way in WAYS
        },
        "seconds": seconds,
        "speedup": {
            mode: statistics.median(
                s / p for p, s in zip(times["packed"], times["separate"], strict=True)
            )
            for mode, times in seconds.items()
        },
    }
    show(result)
    if json_file:
        write_aside(json_file, json_text(result))
        click.echo(f"written: {json_file}")


def show(result: dict) -> None:
    click.echo(
        f"{result['base']} on {result['device']} ({result['threads']} threads), "
        f"{result['precision']}, LoRA rank {result['lora_rank']}: "
        f"{result['batchsize']} contexts with {result['negatives'] + 1} replies each"
    )
    click.echo(f"log p of the two ways differs by at most {result['largest_difference']:.1e}")
    packed, separate = result["tokens"]["packed"], result["tokens"]["separate"]
    click.echo(f"{'':<8}{'packed':>12}{'separate':>12}{'speed-up':>12}{'range':>16}")
    click.echo(f"{'tokens':<8}{packed:>12,.0f}{separate:>12,.0f}{separate / packed:>11.2f}x")
    for mode, times in result["seconds"].items():
        packed, separate = (statistics.median(times[way]) for way in WAYS)
        ratios = [s / p for p, s in zip(times["packed"], times["separate"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        click.echo(
            f"{mode:<8}{packed:>10.3f} s{separate:>10.3f} s"
            f"{result['speedup'][mode]:>11.2f}x{spread:>16}"
        )


if __name__ == "__main__":
    main()
