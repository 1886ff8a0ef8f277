"""How much faster is one packed pass over a context and its replies than a pass for each reply?

Times a training step (forward and backward, LoRA as the agent trains it) and plain scoring of the
same real dialogues in both ways, interleaved in one run, so that a machine which slows down does
so for both. The separate passes get what is best for them: right-padded rows need no attention
mask, and only the positions that predict a reply reach the output layer. With ``--flex`` a third
way follows on a GPU, beside separate passes again: the packed pass through FlexAttention, which
skips the blocks that the mask leaves empty. Before a way is timed, it must give the same numbers.
What is measured is printed and written at once, so that a run that is cut short leaves it.

    python benchmarks/bench_packed.py --device cpu
    python benchmarks/bench_packed.py --device cuda --batchsize 16 --batchsize 64 --flex

Real dialogues: the bundled Self-dialogue sample, five turns of context each. The negatives are
replies of other dialogues, since only their number and length matter here.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import click
import torch
from parlai.core.params import ParlaiParser
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from parlai_prosocial.agents.options import DEFAULT_BACKBONE
from parlai_prosocial.data.self_dialogue import load_dialogues
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.packing import PackedBatch, pack, pack_separately
from parlai_prosocial.models.precision import bf16_is_faster
from parlai_prosocial.models.scores import token_log_probs
from parlai_prosocial.util.files import json_text, write_aside
from parlai_prosocial.zoo.resolve import find_base

CONTEXT_TURNS = 5
MODES = ("train", "score")
TOLERANCE = 1e-3
"""Of a token's log p in float32, between packed and any other way."""
FLEX = "flex_under_autocast"
STARTED = time.perf_counter()
Batch = dict[str, PackedBatch]
"""The same examples, packed for each way."""


def progress(text: str) -> None:
    """A line with the seconds since the imports, apart from the tables."""
    click.echo(f"[{time.perf_counter() - STARTED:.1f} s] {text}", err=True)


def packed_log_probs(backbone: Backbone, batch: PackedBatch) -> torch.Tensor:
    """(T,) log p of every reply token, in one pass over shared contexts."""
    return backbone(batch).token_log_probs


def separate_log_probs(backbone: Backbone, batch: PackedBatch) -> torch.Tensor:
    """(T,) the same from rows that repeat the context for each reply."""
    hidden = backbone.lm.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    queries = hidden.flatten(0, 1)[batch.query_positions]  # (T, hidden)
    logits = backbone.lm.get_output_embeddings()(queries)  # (T, vocabulary)
    return token_log_probs(logits, batch.target_ids)[0]


def block_mask_mod(batch: PackedBatch) -> Callable[..., torch.Tensor]:
    """:meth:`PackedBatch.attention_mask` as FlexAttention asks for it, one entry at a time."""
    example, candidate = batch.example_ids, batch.candidate_ids  # (rows, length)

    def sees(row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor):
        same_example = example[row, q] == example[row, k]
        same_candidate = candidate[row, q] == candidate[row, k]
        return same_example & (same_candidate | (candidate[row, k] == -1)) & (q >= k)

    return sees


def block_mask(batch: PackedBatch) -> BlockMask:
    """The whole mask in blocks of 128, built by one compiled kernel as transformers does it."""
    rows, length = batch.input_ids.shape
    build = torch.compile(create_block_mask)
    return build(block_mask_mod(batch), rows, None, length, length, device=batch.input_ids.device)


def flex_under_autocast(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' flex attention. SDPA takes what autocast gives it; this wants one dtype."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(FLEX, flex_under_autocast)


def flex_log_probs(backbone: Backbone, batch: PackedBatch) -> torch.Tensor:
    """As :func:`packed_log_probs`, of a model whose attention is :data:`FLEX`."""
    hidden = backbone.lm.base_model(
        input_ids=batch.input_ids,
        attention_mask=block_mask(batch),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    logits = backbone.lm.get_output_embeddings()(hidden.flatten(0, 1)[batch.query_positions])
    return token_log_probs(logits, batch.target_ids)[0]


LOG_PROBS = {"packed": packed_log_probs, "separate": separate_log_probs, "flex": flex_log_probs}
PACK = {"packed": pack, "separate": pack_separately, "flex": pack}


def set_attention(backbone: Backbone, way: str) -> None:
    """Outside what is timed: it walks through all modules."""
    backbone.lm.set_attn_implementation(FLEX if way == "flex" else "sdpa")


def make_batches(
    backbone: Backbone, datapath: str, count: int, batchsize: int, negatives: int
) -> list[Batch]:
    """``count`` batches, each packed in all ways."""
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
                way: pack_as(contexts, candidates, backbone.pad_id).to(backbone.device)
                for way, pack_as in PACK.items()
            }
        )
    return batches


@torch.no_grad()
def difference_from_packed(backbone: Backbone, batch: Batch, way: str) -> float:
    """Largest difference of a token's log p between packed and another way, in float32."""
    scores = []
    for each in ("packed", way):
        set_attention(backbone, each)
        scores.append(LOG_PROBS[each](backbone, batch[each]))
    return (scores[0] - scores[1]).abs().max().item()


def step(backbone: Backbone, mode: str, way: str, batch: PackedBatch, bf16: bool) -> None:
    """What is timed."""
    with (
        torch.set_grad_enabled(mode == "train"),
        torch.autocast(backbone.device.type, torch.bfloat16, enabled=bf16),
    ):
        loss = -LOG_PROBS[way](backbone, batch).mean()
    if mode == "train":
        loss.backward()
        backbone.zero_grad(set_to_none=True)


def why_not_flex(backbone: Backbone, batch: Batch, bf16: bool) -> str:
    """What keeps FlexAttention from being timed here; empty where nothing does.

    Its kernels are compiled for the machine at hand, so anything may be raised.
    """
    try:
        difference = difference_from_packed(backbone, batch, "flex")
        if not difference <= TOLERANCE:
            return f"its log p differs from packed's by {difference:.1e}, over {TOLERANCE:.0e}"
        set_attention(backbone, "flex")
        step(backbone, "train", "flex", batch["flex"], bf16)
    except Exception as error:
        backbone.zero_grad(set_to_none=True)
        first_line = (str(error).strip() or "no message").split("\n")[0]
        return f"raises {type(error).__name__}: {first_line}"
    return ""


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
    backbone: Backbone, batches: Sequence[Batch], ways: Sequence[str], burn_in: int, bf16: bool
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each batch in each mode and way; the first ``burn_in`` batches don't count.

    A way that does not fit into the GPU's memory has none.
    """
    seconds: dict[str, dict[str, list[float]]] = {mode: {way: [] for way in ways} for mode in MODES}
    for mode in MODES:
        fitting = set(ways)
        for i, batch in enumerate(batches):
            # Who goes first alternates: the second one finds warmer caches.
            for way in ways if i % 2 else reversed(ways):
                if way not in fitting:
                    continue
                set_attention(backbone, way)
                try:
                    taken = seconds_of(
                        partial(step, backbone, mode, way, batch[way], bf16), backbone.device
                    )
                except torch.OutOfMemoryError:
                    fitting.remove(way)
                    seconds[mode][way] = []
                    backbone.zero_grad(set_to_none=True)
                    progress(f"{mode} {way}: out of memory")
                    continue
                progress(f"{mode} {way}, batch {i + 1} of {len(batches)}: {taken:.4f} s")
                if i >= burn_in:
                    seconds[mode][way].append(taken)
    return seconds


def measure(
    backbone: Backbone, batches: Sequence[Batch], way: str, burn_in: int, bf16: bool
) -> dict:
    """Check a way and time it beside separate passes."""
    other = "separate" if way == "packed" else way
    difference = difference_from_packed(backbone, batches[0], other)
    if not difference <= TOLERANCE:
        raise UserError(f"--base: packed and {other} log p differ by {difference:.1e}")
    ways = (way, "separate")
    seconds = run(backbone, batches, ways, burn_in, bf16)
    sizes = {w: [batch[w].input_ids.numel() for batch in batches[burn_in:]] for w in ways}
    return {
        "largest_difference": {other: difference},
        "tokens": {w: statistics.median(size) for w, size in sizes.items()},
        "seconds": seconds,
        "speedup": {mode: speedups(times) for mode, times in seconds.items()},
    }


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--base", default=DEFAULT_BACKBONE, show_default=True, help="A causal backbone.")
@click.option(
    "--batchsize",
    "batchsizes",
    type=click.IntRange(1),
    multiple=True,
    default=[4],
    show_default=True,
    help="Contexts a batch; may be given several times.",
)
@click.option("--negatives", type=click.IntRange(1), default=4, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--burn-in", type=click.IntRange(0), default=1, show_default=True)
@click.option("--lora-rank", type=click.IntRange(0), default=16, show_default=True)
@click.option("--flex", is_flag=True, help="Time FlexAttention too, with --device cuda.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="Write all times there, and the tables into a .md beside it.",
)
def main(
    device: str,
    base: str,
    batchsizes: Sequence[int],
    negatives: int,
    repeats: int,
    burn_in: int,
    lora_rank: int,
    flex: bool,
    datapath: str | None,
    json_file: Path | None,
) -> None:
    """Time a packed pass against separate passes."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    if flex and device == "cpu":
        raise UserError("--flex: FlexAttention trains on a GPU only; add --device cuda")
    opt = ParlaiParser(True, False).parse_args(["--datapath", datapath] if datapath else [])
    progress(f"loading {base}")
    folder = find_base(base, "--base", opt["datapath"])
    torch.manual_seed(0)
    # Float32 weights for the check; autocast makes the timed steps bf16 where that pays.
    backbone = Backbone(folder, lora_rank=lora_rank).to(device).train()
    bf16 = bf16_is_faster(backbone.device)
    if not getattr(backbone.scorer, "shares_context", False):
        raise UserError(f"--base {base}: needs a causal model that takes a block attention mask")

    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": "bf16 autocast" if bf16 else "fp32",
        "base": base,
        "negatives": negatives,
        "lora_rank": lora_rank,
        "burn_in": burn_in,
        "repeats": repeats,
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "peft")},
        "runs": [],
    }
    click.echo(heading(result))

    # Each shape, dtype and mode compiles once; beyond the limit torch goes on uncompiled.
    torch._dynamo.config.recompile_limit = 64
    for way in ("packed", "flex") if flex else ("packed",):
        for batchsize in batchsizes:
            progress(f"{batchsize} contexts, {way} against separate")
            count = burn_in + repeats
            batches = make_batches(backbone, opt["datapath"], count, batchsize, negatives)
            if way == "flex" and (reason := why_not_flex(backbone, batches[0], bf16)):
                click.echo(f"FlexAttention is left out at {batchsize} contexts: {reason}")
                continue
            measured = measure(backbone, batches, way, burn_in, bf16) | {"batchsize": batchsize}
            click.echo("\n".join(rows(measured)))
            result["runs"].append(measured)
            if json_file:
                write_aside(json_file, json_text(result))
                write_aside(json_file.with_suffix(".md"), table(result) + "\n")
    if json_file:
        click.echo(f"written: {json_file} and {json_file.with_suffix('.md')}")


def speedups(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """How many times faster than separate passes each other way was, batch by batch."""
    return {
        way: [s / t for s, t in zip(times["separate"], taken, strict=True)]
        for way, taken in times.items()
        if way != "separate" and taken and times["separate"]
    }


def heading(result: dict) -> str:
    """What was measured, and the head of the table, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        "# One packed pass against a pass for each reply\n\n"
        f"{result['base']} on {result['device']} ({result['cores']} cores, {result['threads']} "
        f"threads), {result['precision']}, LoRA rank {result['lora_rank']}, "
        f"{result['negatives'] + 1} replies to each context; {versions}. Medians of "
        f"{result['repeats']} batches after {result['burn_in']}; speed-up over separate passes "
        "of the same batch, with its range.\n\n"
        "| contexts | step | way | tokens | seconds | speed-up | log p differs by |\n"
        "|--:|:--|:--|--:|--:|--:|--:|"
    )


def rows(measured: dict) -> list[str]:
    """Rows of the table: two ways at one batch size."""
    lines = []
    for mode, times in measured["seconds"].items():
        for way, taken in times.items():
            ratios = measured["speedup"][mode].get(way)
            gain = "" if way == "separate" else "unknown"
            if ratios:
                gain = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            difference = measured["largest_difference"].get(way)
            lines.append(
                f"| {measured['batchsize']} | {mode} | {way} | {measured['tokens'][way]:,.0f} "
                f"| {f'{statistics.median(taken):.4f}' if taken else 'out of memory'} "
                f"| {gain} | {'' if difference is None else f'{difference:.1e}'} |"
            )
    return lines


def table(result: dict) -> str:
    """Markdown of all that has been measured so far."""
    return "\n".join([heading(result), *(row for each in result["runs"] for row in rows(each))])


if __name__ == "__main__":
    main()
