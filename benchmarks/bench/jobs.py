"""All that is measured, the most important first."""

from dataclasses import replace

from benchmarks.bench.apart import Apart, Memory
from benchmarks.bench.contrast import Negatives, Preferences
from benchmarks.bench.device import Flex, MatrixRate, Packed
from benchmarks.bench.job import Job
from benchmarks.bench.opening import FirstStep, Help, Opening
from benchmarks.bench.replies import (
    Judging,
    Mining,
    Ranking,
    Sampling,
    SamplingAgainstParlAI,
    SamplingByOpenVINO,
)
from benchmarks.bench.training import AgainstParlAI, Batches, Flags, Likelihood
from parlai_prosocial.errors import UserError

FULL_64 = Likelihood(lora=False, precision="auto", batchsize=64, steps=1, lean=True)
LORA_64 = replace(FULL_64, lora=True, speed=2.0)
JOBS: list[Job] = [
    Likelihood(lora=True, precision="auto", batchsize=8, steps=2, sft=True, speed=2.0, shown=True),
    Preferences(),
    Sampling(),
    SamplingByOpenVINO(),
    Likelihood(lora=False, precision="auto", batchsize=8, steps=2, speed=1.5, shown=True),
    Negatives(),
    AgainstParlAI(),
    Memory(FULL_64, target=0.5, shown=True),
    SamplingAgainstParlAI(),
    Help(),
    Opening(),
    MatrixRate(),
    Packed(),
    Mining(),
    Ranking(),
    Judging(),
    Flags(),
    Likelihood(lora=True, precision="fp32", batchsize=8, steps=1, gpu=False),
    Likelihood(lora=False, precision="fp32", batchsize=8, steps=1, gpu=False),
    Batches(),
    Likelihood(lora=True, precision="auto", batchsize=16, steps=1),
    Apart(LORA_64, gpu=False),
    replace(LORA_64, cpu=False),
    Memory(replace(FULL_64, batchsize=32), gpu=False),
    Memory(replace(FULL_64, batchsize=16), gpu=False),
    FirstStep(),
    Apart(FULL_64, gpu=False),
    replace(FULL_64, cpu=False),
    Flex(),
]
PIECES = {
    of.name: of
    for of in (job.of if isinstance(job, Apart | Memory) else job for job in JOBS)
    if isinstance(of, Likelihood)
}
"""Jobs of which single pieces can be run in processes of their own."""


def find_jobs(names: list[str], gpu: bool) -> list[Job]:
    """The jobs of the rows or jobs that are named, or all of this device.

    A job that is named is found even where it is not of this device, unless another of its name is.

    Raises:
        UserError: there is no such row.
    """
    if not names:
        return [job for job in JOBS if (job.gpu if gpu else job.cpu)]
    found: list[Job] = []
    for name in names:
        own = [job for job in JOBS if name in (job.name, *(row.name for row in job.rows))]
        own = [job for job in own if (job.gpu if gpu else job.cpu)] or own[:1]
        if not own:
            known = ", ".join(dict.fromkeys(row.name for job in JOBS for row in job.rows))
            raise UserError(f"--rows {name}: no such row; there are {known}")
        found += [job for job in own if job not in found]
    return found
