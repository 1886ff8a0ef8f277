"""All that is measured, the most important first."""

from benchmarks.bench.apart import Apart, Memory
from benchmarks.bench.contrast import Negatives, Preferences
from benchmarks.bench.device import MatrixRate, Packed
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

FULL_64 = Likelihood(lora=False, precision="auto", batchsize=64, steps=1)
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
    Mining(),
    Ranking(),
    Judging(),
    Flags(),
    MatrixRate(),
    Packed(),
    Likelihood(lora=True, precision="fp32", batchsize=8, steps=1, gpu=False),
    Likelihood(lora=False, precision="fp32", batchsize=8, steps=1, gpu=False),
    Batches(),
    Likelihood(lora=True, precision="auto", batchsize=16, steps=1),
    Apart(Likelihood(lora=True, precision="auto", batchsize=64, steps=1, speed=2.0)),
    Memory(Likelihood(lora=False, precision="auto", batchsize=32, steps=1)),
    Memory(Likelihood(lora=False, precision="auto", batchsize=16, steps=1)),
    FirstStep(),
    Apart(FULL_64),
]
PIECES = {
    of.name: of
    for of in (job.of if isinstance(job, Apart | Memory) else job for job in JOBS)
    if isinstance(of, Likelihood)
}
"""Jobs of which single pieces can be run in processes of their own."""


def find_jobs(names: list[str], gpu: bool) -> list[Job]:
    """The jobs of the rows or jobs that are named, or all of this device.

    Raises:
        UserError: there is no such row.
    """
    if not names:
        return [job for job in JOBS if (job.gpu if gpu else job.cpu)]
    found = []
    for name in names:
        own = [job for job in JOBS if name in (job.name, *(row.name for row in job.rows))]
        if not own:
            known = ", ".join(row.name for job in JOBS for row in job.rows)
            raise UserError(f"--rows {name}: no such row; there are {known}")
        found += [job for job in own if job not in found]
    return found
