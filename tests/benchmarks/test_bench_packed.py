"""What the bench times: equal in all ways before it is timed, a way that fails left out."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention.flex_attention import create_mask

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.packing import pack, pack_separately

FILE = Path(__file__).parents[2] / "benchmarks" / "bench_packed.py"
CONTEXTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
CANDIDATES = [
    [[20, 21, 2], [22, 2], [23, 24, 25, 2]],
    [[26, 2]],
    [[2], [27, 28, 29, 30, 2]],
    [[31, 2], [2]],
]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_packed", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("packing", [pack, pack_separately])
def test_flex_attention_sees_what_the_dense_mask_shows(bench, packing):
    batch = packing(CONTEXTS, CANDIDATES, 0)
    rows, length = batch.input_ids.shape
    assert (batch.example_ids == -1).any(), "padding is part of the test"
    seen = create_mask(bench.block_mask_mod(batch), rows, 1, length, length, device="cpu")
    assert torch.equal(seen, batch.attention_mask())


@pytest.fixture
def backbone(tiny_backbones):
    return Backbone(tiny_backbones["llama"], lora_rank=2)


@pytest.fixture
def batch():
    packed = pack(CONTEXTS, CANDIDATES, 0)
    return {
        "packed": packed,
        "separate": pack_separately(CONTEXTS, CANDIDATES, 0),
        "flex": packed,
    }


@pytest.fixture
def uncompiled():
    """FlexAttention's own arithmetic without its kernels, which a CPU can do."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("way", ["separate", "flex"])
def test_all_ways_give_the_packed_log_probs(bench, backbone, batch, uncompiled, way):
    assert bench.difference_from_packed(backbone, batch, way) < 1e-5


@torch.no_grad()
def test_flex_attention_takes_what_autocast_gives_it(bench, backbone, batch, uncompiled):
    scores = {}
    for way in ("packed", "flex"):
        bench.set_attention(backbone, way)
        with torch.autocast("cpu", torch.bfloat16):
            scores[way] = bench.LOG_PROBS[way](backbone, batch[way])
    torch.testing.assert_close(scores["flex"], scores["packed"], atol=0.1, rtol=0)


def test_flex_attention_that_raises_or_differs_is_left_out(bench, backbone, batch, monkeypatch):
    def raises(*_):
        raise RuntimeError("no kernel\nfor this machine")

    monkeypatch.setitem(bench.LOG_PROBS, "flex", raises)
    reason = bench.why_not_flex(backbone, batch, bf16=False)
    assert reason == "raises RuntimeError: no kernel"
    monkeypatch.setitem(bench.LOG_PROBS, "flex", lambda _, b: torch.zeros(b.target_ids.shape))
    assert "differs from packed's by" in bench.why_not_flex(backbone, batch, bf16=False)


def test_a_way_without_memory_has_no_time(bench, backbone, batch, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(bench.LOG_PROBS, "separate", full)
    ways = ("packed", "separate")
    seconds = bench.run(backbone, [batch] * 3, ways, burn_in=1, bf16=False)
    assert {mode: len(times["packed"]) for mode, times in seconds.items()} == {
        "train": 2,
        "score": 2,
    }
    assert all(times["separate"] == [] for times in seconds.values())


def test_times_several_batch_sizes(bench, tiny_backbones, tmp_path):
    arguments = ["--base", tiny_backbones["llama"], "--batchsize", "2", "--batchsize", "3"]
    arguments += [
        "--repeats",
        "1",
        "--negatives",
        "1",
        "--lora-rank",
        "2",
        "--json",
        tmp_path / "packed.json",
    ]
    arguments += ["--datapath", tmp_path / "data"]
    done = CliRunner().invoke(bench.main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "packed.json").read_text())
    assert [each["batchsize"] for each in result["runs"]] == [2, 3]
    for each in result["runs"]:
        assert each["largest_difference"]["separate"] < 1e-3
        for mode in ("train", "score"):
            times = each["seconds"][mode]
            assert [len(times[way]) for way in ("packed", "separate")] == [1, 1]
            expected = [s / p for p, s in zip(times["packed"], times["separate"], strict=True)]
            assert each["speedup"][mode] == {"packed": expected}
    assert (tmp_path / "packed.md").read_text().count("\n| ") == 9


def test_a_run_that_is_cut_short_leaves_what_was_measured(
    bench, tiny_backbones, tmp_path, monkeypatch
):
    measure, sizes = bench.measure, []

    def cut_short(backbone, batches, *rest):
        sizes.append(len(batches[0]["packed"].context_ends))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return measure(backbone, batches, *rest)

    monkeypatch.setattr(bench, "measure", cut_short)
    arguments = ["--base", tiny_backbones["llama"], "--batchsize", "2", "--batchsize", "3"]
    arguments += ["--repeats", "1", "--negatives", "1", "--lora-rank", "2"]
    arguments += ["--json", tmp_path / "packed.json", "--datapath", tmp_path / "data"]
    done = CliRunner().invoke(bench.main, list(map(str, arguments)))
    assert done.exit_code == 1 and sizes == [2, 3]
    result = json.loads((tmp_path / "packed.json").read_text())
    assert [each["batchsize"] for each in result["runs"]] == [2]
    assert (tmp_path / "packed.md").read_text().strip() == done.stdout.strip()
    assert "s] train separate, batch 2 of 2: " in done.stderr


def test_flex_attention_is_timed_beside_separate_passes(bench, backbone, batch, monkeypatch):
    monkeypatch.setitem(bench.LOG_PROBS, "flex", bench.packed_log_probs)
    monkeypatch.setattr(bench, "set_attention", lambda *_: None)  # its kernels train on a GPU only
    measured = bench.measure(backbone, [batch] * 2, "flex", burn_in=1, bf16=False)
    assert measured["largest_difference"] == {"flex": 0}
    cells = [row.split(" | ") for row in bench.rows(measured | {"batchsize": 4})]
    assert [(mode, way) for _, mode, way, *_ in cells] == [
        (mode, way) for mode in ("train", "score") for way in ("flex", "separate")
    ]
    assert all(("x (" in row[5]) == (row[2] == "flex") for row in cells)


def test_flex_attention_follows_the_other_ways(bench, tiny_backbones, tmp_path, monkeypatch):
    """The order and the rows; what is compiled and timed needs a GPU."""
    timed = []

    def measure(backbone, batches, way, burn_in, bf16):
        timed.append((len(batches[0][way].context_ends), way))
        return {"seconds": {}, "speedup": {}, "tokens": {}, "largest_difference": {}}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "why_not_flex", lambda *_: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(Backbone, "to", lambda self, device: self)
    arguments = ["--base", tiny_backbones["llama"], "--batchsize", "2", "--batchsize", "3"]
    arguments += ["--repeats", "1", "--device", "cuda", "--flex", "--datapath", tmp_path / "data"]
    done = CliRunner().invoke(bench.main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert timed == [(2, "packed"), (3, "packed"), (2, "flex"), (3, "flex")]


def test_flex_attention_is_for_a_gpu(bench):
    with pytest.raises(UserError, match="--flex: FlexAttention trains on a GPU only"):
        CliRunner().invoke(bench.main, ["--flex"], catch_exceptions=False)
