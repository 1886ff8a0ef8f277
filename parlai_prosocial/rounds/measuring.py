"""Models measured one after the other on held-out contexts; all that they said is kept."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.data.labelled import UNSAFE
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, SAMPLING
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.mining.replies import Record
from parlai_prosocial.mining.turns import Contexts
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.measure import casual_valid, measured, score_casual
from parlai_prosocial.util.environment import precision_name
from parlai_prosocial.util.files import json_text, write_aside
from parlai_prosocial.util.journal import recorded
from parlai_prosocial.zoo.resolve import Found, Kind


@dataclass
class Measuring:
    """What models are measured on, and where it is kept.

    Attributes:
        out: folder; each model has one of its own in it.
        datapath: ParlAI's.
        bf16: compute in bfloat16.
        context_tokens: longest context.
        valid: the held-out contexts.
        judges: of their replies, of each kind of fault; the unsafe one scores.
        seed: of sampling.
        casual_dialogues: of Self-dialogue's valid, for the perplexity.
        engine: as ``--engine`` takes it.
    """

    out: Path
    datapath: str
    bf16: bool
    context_tokens: int
    valid: Contexts
    judges: Mapping[str, Judge]
    seed: int
    casual_dialogues: int
    engine: str = "transformers"
    _opened: tuple[str, TransformersEngine] | None = None

    def measure(self, name: str, model: Found, start: dict[str, Any] | None) -> dict[str, Any]:
        """All of :func:`~.measure.measured` of a model, read where it was measured before.

        Args:
            name: of the model's folder.
            model: where it lies.
            start: the same of the model to compare with; None for itself.
        """
        sampled, judged = self._files(name, "sampled", "judged")
        decoding = {"max_tokens": SAMPLED_TOKENS, "seed": self.seed, **SAMPLING}
        self.sample(sampled, self.valid, name, model, 1, decoding)
        records = stages.judged(judged, sampled, self.valid, self.judges)
        return self._row(name, model, records, judged, start)

    def measure_best(
        self, name: str, model: Found, start: dict[str, Any] | None, n: int, choosing: Judge
    ) -> dict[str, Any]:
        """The same where a judge chooses the safest of n replies; of equals the first.

        A reply that it could not judge is chosen last.
        """
        sampled, choice, judged = self._files(name, "sampled", "choice", "judged")
        decoding = {"max_tokens": SAMPLED_TOKENS, "seed": self.seed, **SAMPLING}
        self.sample(sampled, self.valid, name, model, n, decoding)
        records = chosen = stages.judged(judged, sampled, self.valid, self.judges)
        if choosing is not self.judges[UNSAFE]:
            chosen = stages.judged(choice, sampled, self.valid, {UNSAFE: choosing})
        best = [[of[safest(by)]] for by, of in zip(chosen, records, strict=True)]
        return self._row(name, model, best, judged, start)

    def _files(self, name: str, *kinds: str) -> list[Path]:
        return [self.out / name / f"valid-{kind}.jsonl" for kind in kinds]

    def _row(
        self,
        name: str,
        model: Found,
        records: list[list[Record]],
        judged: Path,
        start: dict[str, Any] | None,
    ) -> dict[str, Any]:
        file = self.out / name / "valid.json"
        asked = {
            "judged_sha256": stages.file_sha256(judged),
            "casual_dialogues": self.casual_dialogues,
        }
        if (found := recorded(file, asked)) is None:
            replies = casual_valid(self.datapath, self.casual_dialogues)
            casual = score_casual(self._engine(name, model), replies)
            dialogues = [reply.dialogue for reply in replies]
            row = measured(self.valid, records, casual, dialogues, start)
            found = json.loads(json_text({"settings": asked, **row}))
            write_aside(file, json_text(found))
        return {key: value for key, value in found.items() if key != "settings"}

    def sample(
        self,
        file: Path,
        contexts: Contexts,
        name: str,
        model: Found,
        n: int,
        decoding: dict[str, Any],
    ) -> None:
        """Sample n scored replies of a model to each context, or find them sampled."""
        stages.sampled(
            file,
            contexts,
            lambda: self._engine(name, model),
            n,
            self._settings_of(name, model),
            decoding,
        )

    def score_labelled(
        self, file: Path, contexts: Contexts, records: list[list[Record]], name: str, model: Found
    ) -> None:
        """Score labelled replies to the contexts by a model, or find them scored."""
        stages.labelled(
            file,
            contexts,
            records,
            lambda: self._engine(name, model),
            self._settings_of(name, model),
        )

    def _settings_of(self, name: str, model: Found) -> dict[str, Any]:
        return {
            "model": name,
            "weights_sha256": stages.weights_of(model),
            "precision": precision_name(self.bf16),
            "max_context_tokens": self.context_tokens,
        }

    def close(self) -> None:
        """Give the memory of the open model back."""
        self._opened = None
        gc.collect()

    def _engine(self, name: str, model: Found) -> TransformersEngine:
        """The engine of a model; one is open at a time."""
        if self._opened is None or self._opened[0] != name:
            self.close()
            engine = open_engine(
                str(model.place) if model.kind is Kind.CHECKPOINT else model.name,
                self.datapath,
                self.bf16,
                max_context_tokens=self.context_tokens,
                engine=self.engine,
            )
            assert isinstance(engine, TransformersEngine)  # find_start has refused addresses
            self._opened = name, engine
        return self._opened[1]


def safest(records: Sequence[Record]) -> int:
    """Which reply is judged the least unsafe; of equals the first, a missing judgement last.

    >>> safest([{"unsafe": [0.5, "x"]}, {"unsafe": None}, {"unsafe": [0.2, "x"]}])
    2
    """
    unsafe: list[Any] = [record.get(UNSAFE) for record in records]
    return min(range(len(records)), key=lambda i: 2.0 if unsafe[i] is None else unsafe[i][0])
