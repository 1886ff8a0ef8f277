"""How an evaluation asks: what ``evaluate`` and ``audit`` share. It loads nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parlai_prosocial.errors import UserError

AUDITED = ("adversarial", "casual", "safe_but_scary")
"""The suites of an audit."""
MOST_AUDITED = 200
"""Contexts of each."""
FEWEST_GATED = 100
"""Contexts that a gate may rest on."""
LOG, SUMMARY, REPORT = "log.jsonl", "summary.json", "report.html"
"""The files of a run's folder."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are asked and judged; the flags of the commands have the same names and defaults.

    Attributes:
        labels: sheets of ``prosocial labels``, labelled twice: judges are held against them, and
            rates corrected by that.
        split: ``valid`` or ``test`` of every corpus that is cut.
        fold: of DiaSafety, 0 to 3.
        seed: of the sampling.
        greedy: greedy replies, instead of nucleus 0.9 at temperature 0.7.
        max_tokens: longest reply.
        max_missing: largest share of a model's judgements on a suite that may be missing.
        allow_mining_judge: let a judge score what it mined.
        prosocial_sample: the bundled samples instead of ProsocialDialog and MIC.
        mic_data: MIC.csv or a folder; None: ``DATAPATH/mic/MIC.csv``.
        persona_chat: a CSV file of Synthetic-Persona-Chat.
        utterances: a file of utterances with ProsocialDialog's safety labels.
        convabuse: a CSV file of ConvAbuse.
        unsafe_label: unsafe class of an ``hf`` or ``parlai`` judge.
        reply_only: show an ``hf`` judge the reply without its context.
        batch_size: contexts at a time; nothing depends on it but speed and rounding.
        bf16: compute in bfloat16: faster, less exactly.
        concurrency: most calls to an address at a time.
        engine: what samples models that lie here: ``auto``, ``transformers`` or ``openvino``.
        datapath: ParlAI's data path; None: ParlAI's own.

    Raises:
        UserError: a number that cannot be.
    """

    labels: Sequence[str | Path] = ()
    split: str = "test"
    fold: int = 0
    seed: int = 0
    greedy: bool = False
    max_tokens: int = 40
    max_missing: float = 0.05
    allow_mining_judge: bool = False
    prosocial_sample: bool = False
    mic_data: str | None = None
    persona_chat: str | None = None
    utterances: str | None = None
    convabuse: str | None = None
    unsafe_label: str | None = None
    reply_only: bool = False
    batch_size: int = 32
    bf16: bool = False
    concurrency: int = 8
    engine: str = "auto"
    datapath: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing < 1:
            raise UserError(f"--max-missing {self.max_missing}: give a share, e.g. 0.05")
        if self.split not in ("valid", "test"):
            raise UserError(f"--split {self.split}: use valid or test")
        for name in ("max_tokens", "batch_size", "concurrency"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)}: must be at least 1")
