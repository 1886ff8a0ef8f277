"""The runner on tiny models: order, agreement before timing, results that a run goes on from."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))


@pytest.fixture
def bench(tiny_backbones, own_datapath, tmp_path):
    from benchmarks.bench.job import Bench

    return Bench(tiny_backbones["llama"], "none", str(own_datapath), tmp_path / "work", pairs=1)


@dataclass
class Stub:
    """A job of two numbers."""

    ours: float
    peer: float
    made: list[str] = field(default_factory=list)
    most_pairs: int | None = None
    name = "stub"

    @property
    def rows(self):
        from benchmarks.bench.job import Row

        return [Row("stub", "a stub", "another")]

    def same(self, bench):
        from benchmarks.bench.measure import Same

        return [Same("loss", self.ours, self.peer)]

    def sides(self, bench):
        from benchmarks.bench.measure import Usage

        def maker(name, cpu):
            def side(number):
                self.made.append(name)
                return Usage(cpu, cpu)

            return lambda: side

        return {"ours": maker("ours", 1.0), "peer": maker("peer", 3.0)}


def test_sides_take_turns_and_the_first_round_does_not_count(bench):
    from dataclasses import replace

    from benchmarks.bench.__main__ import measured

    job = Stub(2.0, 2.0005)
    [row] = measured(job, replace(bench, pairs=2))["rows"].values()
    assert job.made == ["peer", "ours", "ours", "peer", "peer", "ours"]
    assert row["ratio"] == {"median": 3.0, "low": 3.0, "high": 3.0} and row["pairs"] == 2
    assert row["usage"]["ours"]["cpu"] == [1.0, 1.0]


@pytest.mark.parametrize("peer", [2.002, float("nan")])
def test_sides_that_compute_another_loss_are_refused_before_they_are_timed(bench, peer):
    from benchmarks.bench.__main__ import measured

    job = Stub(2.0, peer)
    found = measured(job, bench)
    assert found["status"] == "refused" and found["why"].startswith("loss: 2.00000 and ")
    assert job.made == []


def test_a_trainer_of_other_weights_is_refused(bench, tiny_backbones, monkeypatch):
    """What the losses are compared for: here the peer trains another model."""
    from transformers import AutoModelForCausalLM

    from benchmarks.bench import peers
    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.training import Likelihood

    job = Likelihood(lora=False, precision="fp32", batchsize=2, steps=1)
    [row] = measured(job, bench)["rows"].values()
    assert row["ratio"]["median"] > 0
    [same] = row["same"]
    assert abs(same["ours"] - same["peer"]) < 1e-4

    def other(base, lora_rank, bf16, lean):
        lm = AutoModelForCausalLM.from_pretrained(base)
        lm.model.embed_tokens.weight.data[7:].mul_(1.5)
        return lm

    monkeypatch.setattr(peers, "load_model", other)
    assert measured(job, bench)["status"] == "refused"


def test_the_peers_loss_in_bf16_is_computed_in_bf16(bench):
    from benchmarks.bench import peers
    from benchmarks.bench.training import Likelihood

    job = Likelihood(lora=False, precision="bf16", batchsize=4, steps=1)
    losses = []
    for bf16 in (False, True):
        trainer, [rows, *_] = job.trainer(bench, "peer", bf16)
        losses.append(peers.trainer_loss(trainer, rows))
    assert 0 < abs(losses[0] - losses[1]) < 3e-2


def test_the_peer_has_the_flags_that_are_best_for_it(bench, monkeypatch):
    from benchmarks.bench import peers
    from benchmarks.bench.jobs import PIECES

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lm = peers.load_model(bench.base, 2, bf16=True)
    assert lm.config._attn_implementation == "eager"
    for name, weight in lm.named_parameters():
        assert weight.dtype == (torch.float32 if "lora" in name else torch.bfloat16)
        assert weight.requires_grad == ("lora" in name)
    lm = peers.load_model(bench.base, 0, bf16=True, lean=True)
    assert lm.config._attn_implementation == "sdpa" and lm.dtype == torch.float32
    assert peers.attention_of(bf16=False, lean=False) == "sdpa"
    assert {job.lean for job in PIECES.values() if job.batchsize > 16} == {True}
    assert PIECES["train-full-auto-16"].lean and not PIECES["train-lora-auto-16"].lean


@pytest.fixture
def pieces(monkeypatch):
    """The pieces that were asked for, each of which takes 2 CPU seconds, the peer's 3."""
    from benchmarks.bench import apart

    asked = []

    def in_a_process(bench, piece):
        asked.append(piece.split(":", 1)[1])
        if piece.endswith(":same"):
            return [{"what": "loss", "ours": 1.0, "peer": 1.0, "tolerance": 1e-3}]
        seconds = 3.0 if ":peer:" in piece else 2.0
        return {"cpu": seconds, "wall": seconds, "peak": 2.5e9, "killed": False}

    monkeypatch.setattr(apart, "in_a_process", in_a_process)
    return asked


def test_sides_apart_take_turns_and_each_process_warms_up(bench, pieces):
    from dataclasses import replace

    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.apart import Apart
    from benchmarks.bench.training import Likelihood

    job = Apart(Likelihood(lora=True, precision="auto", batchsize=64, steps=1))
    [row] = measured(job, replace(bench, pairs=2))["rows"].values()
    assert pieces == ["same", "ours:0,1", "peer:0,1", "peer:0,2", "ours:0,2"]
    assert row["ratio"] == {"median": 1.5, "low": 1.5, "high": 1.5}
    assert row["usage"]["theirs"] == {"cpu": [3.0, 3.0], "wall": [3.0, 3.0], "peak": [2.5e9, 2.5e9]}
    assert row["same"][0]["what"] == "loss" and row["peak_of_all_sides"] >= 2.5e9


def test_pieces_apart_have_the_rows_that_they_have_in_one_process(bench):
    from dataclasses import replace

    from benchmarks.bench.training import Likelihood

    job = Likelihood(lora=False, precision="fp32", batchsize=2, steps=2)
    bench = replace(bench, pairs=3)
    rows = job.corpus(bench)
    assert len(rows) == 16
    assert replace(job, pieces=(0, 2)).corpus(bench) == rows[:4] + rows[8:12]


def test_a_piece_in_a_process_of_its_own(bench):
    """Whose losses agree, and which says what the last of its pieces took."""
    from benchmarks.bench.apart import Apart, in_a_process
    from benchmarks.bench.training import Likelihood

    job = Likelihood(lora=False, precision="fp32", batchsize=8, steps=1)
    [same] = Apart(job).same(bench)
    assert abs(same.ours - same.peer) < 1e-4
    usage = in_a_process(bench, f"{job.name}:ours:0,1")
    assert usage["cpu"] > 0 and 0 < usage["wall"] < 60 and usage["peak"] > 2e8


@pytest.mark.parametrize("measure", ["cpu", "peak"])
def test_a_side_that_memory_ends_for_is_a_result(bench, pieces, monkeypatch, measure):
    from dataclasses import replace

    from benchmarks.bench import apart
    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.measure import Killed
    from benchmarks.bench.training import Likelihood

    lives = apart.in_a_process

    def in_a_process(bench, piece):
        usage = lives(bench, piece)
        if ":peer:" in piece:
            raise Killed("killed")
        return usage

    monkeypatch.setattr(apart, "in_a_process", in_a_process)
    kind = apart.Memory if measure == "peak" else apart.Apart
    job = kind(Likelihood(lora=False, precision="auto", batchsize=64, steps=1))
    [row] = measured(job, replace(bench, pairs=2))["rows"].values()
    assert row["status"] == "does not fit"
    assert row["why"].startswith("ours takes 2.50 GB, HF Trainer, length grouping killed where ")
    sides = [piece.split(":")[0] for piece in pieces]
    if measure == "peak":
        assert sides == ["ours", "peer"], "without a round that warms up"
    else:
        assert sides == ["same", "ours", "peer", "ours"], "the peer is not tried again"


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("kill -9 $$", "failed", "killed by signal 9, as where memory ends"),
        ("kill -11 $$", "failed", "killed by signal 11"),
        ("echo one >&2; echo error: no data >&2; exit 1", "failed", "no data"),
    ],
)
def test_why_a_job_gave_nothing_is_one_short_text(tmp_path, command, status, why):
    from benchmarks.bench.__main__ import failure

    with open(tmp_path / "log", "w") as log:
        code = subprocess.run(["bash", "-c", command], stderr=log).returncode
    found = failure(code, tmp_path / "log")
    assert found["status"] == status and re.fullmatch(why, found["why"])


@pytest.mark.parametrize("kills", [0, 1])
def test_a_command_that_is_killed_says_whether_memory_ended(monkeypatch, kills):
    from benchmarks.bench import measure
    from parlai_prosocial.errors import UserError

    counted = iter([measure.memory_kills(), measure.memory_kills() + kills])
    monkeypatch.setattr(measure, "memory_kills", lambda: next(counted))
    with pytest.raises(UserError) as error:
        measure.run_command(["bash", "-c", "kill -9 $$"])
    assert isinstance(error.value, measure.Killed) == bool(kills)
    assert ("GB of memory end" if kills else "killed by signal 9") in str(error.value)


def test_each_flag_changes_one_thing(bench, monkeypatch):
    from benchmarks.bench import ours
    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.training import Flags
    from parlai_prosocial.models.attention import FUSED
    from parlai_prosocial.models.lean_lora import LeanLinear

    made = []
    training = ours.Training

    def kept(agent, steps):
        lean = any(type(module) is LeanLinear for module in agent.backbone.modules())
        flags = [agent.opt[name] for name in ("lora_rank", "batchsize", "update_freq")]
        made.append((*flags, steps, lean, agent.attention_kernel == FUSED))
        return training(agent, steps)

    monkeypatch.setattr(ours, "Training", kept)
    job = Flags(batchsize=4, few=2)
    rows = measured(job, bench)["rows"]
    assert all(row["ratio"]["median"] > 0 for row in rows.values()) and len(rows) == 5
    assert made == [
        (8, 4, 1, 1, True, False),  # ours
        (8, 4, 1, 1, True, False),  # fp32
        (0, 4, 1, 1, False, False),  # all weights
        (8, 2, 2, 2, True, False),  # few rows
        (8, 4, 1, 1, True, True),  # the fused kernel
        (8, 4, 1, 1, False, False),  # peft's layer
    ]


def test_packed_negatives_have_the_loss_of_separate_passes(bench):
    from benchmarks.bench.contrast import Negatives

    [same] = Negatives(counts=(2,), batchsize=3).same(bench)
    assert same.ours != 0 and abs(same.ours - same.peer) < 1e-4


def test_a_run_goes_on_where_it_was_stopped(tiny_backbones, own_datapath, tmp_path):
    def run(*more):
        command = [sys.executable, "-m", "benchmarks.bench", "--pairs", "1", "--threads", "1"]
        command += ["--base", tiny_backbones["llama"], "--datapath", own_datapath]
        command += ["--out", tmp_path / "bench.json", "--work", tmp_path / "work", *more]
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=REPOSITORY, timeout=300
        )

    done = run("--rows", "rank")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["rank"]
    assert result["rows"][0]["ratio"]["median"] > 0
    assert "| ranking 20 candidates, auto |" in (tmp_path / "bench.md").read_text()
    again = run("--rows", "rank")
    assert again.returncode == 0 and "rank: measured before" in again.stderr
    assert result["commit"] == result["rows"][0]["commit"]
    unknown = run("--rows", "no-such")
    assert "--rows no-such: no such row; there are " in unknown.stderr
    if not torch.cuda.is_available():
        assert "--device cuda: torch sees no GPU here" in run("--device", "cuda").stderr


@pytest.fixture
def beginning(tmp_path, monkeypatch, capsys):
    """``beginning(commit, **flags)``: how many rows a run goes on with, and what it says."""
    from benchmarks.bench import __main__ as runner

    asked = {"device": "cpu", "pairs": 1, "base": "b", "note": "", "fresh": False, "goes_on": False}
    out = tmp_path / "bench.json"
    first = runner.beginning(asked, 2, out, "aaa")
    out.write_text(json.dumps(first | {"rows": [{"name": "rank"}]}), "utf-8")

    def begin(commit, **flags):
        found = runner.beginning(asked | flags, 2, out, commit)
        return len(found["rows"]), capsys.readouterr().err

    return begin


def test_only_results_of_this_machine_and_commit_are_gone_on_with(beginning, monkeypatch):
    from benchmarks.bench import __main__ as runner

    assert beginning("aaa") == (1, "")
    assert beginning("aaa", fresh=True) == (0, "")
    count, said = beginning("bbb")
    assert count == 0 and "another commit; --continue would go on" in said
    assert beginning("bbb", goes_on=True) == (1, "")
    assert "another pairs" in beginning("aaa", pairs=2, goes_on=True)[1]
    monkeypatch.setattr(runner, "machine", lambda device: "another processor, 2 cores")
    count, said = beginning("aaa", goes_on=True)
    assert count == 0 and said.rstrip().endswith("another hardware")


def test_a_checkout_without_git_has_no_commit(monkeypatch):
    from benchmarks.bench.__main__ import commit

    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_results_are_published_where_they_are_committed(tmp_path, monkeypatch):
    from benchmarks.bench import __main__ as runner
    from parlai_prosocial.errors import UserError

    monkeypatch.setattr(runner, "PUBLISHED", tmp_path / "results")
    (tmp_path / "results").mkdir()
    out = tmp_path / "bench.json"
    with pytest.raises(UserError, match=r"--publish: .* is not there"):
        runner.publish(out, "bench.json")
    out.write_text("{}", "utf-8")
    out.with_suffix(".md").write_text("a table", "utf-8")
    runner.publish(out, "bench.json")
    assert (tmp_path / "results" / "bench.json").read_text("utf-8") == "{}"
    assert (tmp_path / "results" / "bench.md").read_text("utf-8") == "a table"


@pytest.mark.parametrize("gpu", [False, True])
def test_each_device_has_each_row_once_and_the_gpus_are_short(gpu):
    from benchmarks.bench.apart import Apart
    from benchmarks.bench.jobs import find_jobs

    jobs = find_jobs([], gpu)
    names = [row.name for job in jobs for row in job.rows]
    assert len(set(names)) == len(names)
    assert {"train-lora-auto-64", "train-full-auto-64", "memory-full-auto-64"} <= set(names)
    assert ("memory-full-auto-32" in names) == (not gpu)
    assert any(isinstance(job, Apart) for job in jobs) == (not gpu)
    [big] = find_jobs(["train-full-auto-64"], gpu)
    assert isinstance(big, Apart) == (not gpu)
    if gpu:
        order = [job.name for job in jobs]
        assert max(order.index("mfu"), order.index("packed")) < order.index("mine")
        assert [job.name for job in find_jobs(["packed", "flex"], gpu)] == ["packed", "flex"]


def test_no_row_times_the_kernels_of_attention_on_a_gpu(bench, monkeypatch):
    from benchmarks.bench import training

    for gpu in (False, True):
        monkeypatch.setattr(training, "on_gpu", lambda gpu=gpu: gpu)
        job = training.Flags()
        assert any(row.name == "flag-attention" for row in job.rows) == (not gpu)
        assert ("fused" in job.sides(bench)) == (not gpu)


def test_flex_attention_that_fails_is_refused_by_itself(bench, monkeypatch):
    from benchmarks import bench_packed
    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.device import Flex

    monkeypatch.setattr(bench_packed, "why_not_flex", lambda *_: "raises Error: no kernel")
    found = measured(Flex(batchsize=2, negatives=1), bench)
    assert found == {"status": "refused", "why": "FlexAttention raises Error: no kernel"}


def test_generate_is_not_timed_against_itself(bench, monkeypatch):
    from benchmarks.bench.__main__ import measured
    from benchmarks.bench.replies import Mining, Sampling
    from parlai_prosocial.engines import local

    assert len(Sampling().same(bench)) == 4
    monkeypatch.setattr(local, "decodes_alike", lambda *_, **__: False)
    for job in (Sampling(), Mining()):
        found = measured(job, bench)
        assert found["status"] == "refused" and "samples by generate too" in found["why"]


def test_the_operations_of_a_step_are_those_of_its_products(tiny_backbones, bench):
    """Of the forward pass, a third, as torch counts them; attention's own are left out."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.bench import corpus, ours
    from benchmarks.bench.device import operations_of

    rows = corpus.rows(bench.datapath, 1)
    flags = ["--lora-rank", "0", "--batchsize", "1", "--precision", "fp32", *ours.LIKELIHOOD]
    agent = ours.build_agent(rows, bench.folder, tiny_backbones["gpt2"], flags)
    [batch] = ours.batches_of(agent, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        agent.is_training = True
        agent.compute_loss(batch)
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op))
    assert operations_of(agent, batch) / 3 == pytest.approx(products, rel=0.1)


def test_targets_and_the_tables_of_the_docs_come_from_the_results():
    from benchmarks.bench.job import Row, Target
    from benchmarks.bench.table import BEGIN, END, markdown, row_facts, verdict, with_part
    from parlai_prosocial.errors import UserError

    row = row_facts(Row("a", "training", "Trainer", target=Target(least=2.0), shown=True))
    row |= {"ratio": {"median": 1.5, "low": 1.25, "high": 2.0}, "pairs": 5, "measure": "cpu"}
    row |= {"wall_ratio": {"median": 1.0, "low": 1.0, "high": 1.0}}
    row |= {"ours": {"cpu": 1.0}, "theirs": {"cpu": 1.5}}
    refused = row_facts(Row("b", "pairs", "DPO")) | {"status": "refused", "why": "loss"}
    result = {"rows": [row, refused], "machine": "a machine", "command": "make bench"}
    assert (
        verdict(row) == "≥ 2: missed" and verdict(row | {"target": {"most": 1.6}}) == "≤ 1.6: met"
    )
    assert "1.50 [1.25, 2.00] times as fast" in markdown(result)
    assert "| pairs | DPO | refused: loss |" in markdown(result)
    empty = f"# Title\n{BEGIN}\nold\n{END}\nend\n"
    made = with_part("README.md", empty, result)
    assert "old" not in made and made.startswith("# Title\n") and made.endswith("\nend\n")
    assert "| training | Trainer | 1.50 [1.25, 2.00] times as fast |" in made
    assert with_part("README.md", made, result) == made
    assert "| training |" not in with_part("docs/performance.md", empty, result)
    result["rows"] = [row | {"name": "flag-a", "shown": False}]
    assert "| training |" not in with_part("README.md", empty, result)
    assert "| training | Trainer | 1.50 " in with_part("docs/performance.md", empty, result)
    with pytest.raises(UserError, match=r"README\.md: has no"):
        with_part("README.md", "nothing", result)


@pytest.mark.parametrize("file", ["README.md", "docs/performance.md"])
def test_the_tables_of_the_docs_have_the_results_that_are_committed(file):
    from benchmarks.bench.table import with_part

    result = json.loads((REPOSITORY / "benchmarks/results/bench.json").read_text("utf-8"))
    text = (REPOSITORY / file).read_text("utf-8")
    assert with_part(file, text, result) == text
