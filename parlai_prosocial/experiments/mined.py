"""Mined data in an ablation: the arms that train on it, and the judges that may not score them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.machine import Machine
from parlai_prosocial.util.files import write_aside

ALL, UNSAFE_ALONE = "{mined}", "{mined-unsafe}"
"""What stands in ``arms.json`` for the file, and for it without its preachy negatives."""


def trains_on_mined(settings: Sequence[str]) -> bool:
    """Whether an arm's settings have a place for mined data."""
    return any(place in setting for setting in settings for place in (ALL, UNSAFE_ALONE))


class MinedData:
    """A file that ``prosocial mine`` wrote.

    Args:
        file: own data in JSON Lines.
        datapath: ParlAI's data path.
        out: folder for copies, whose names tell their content.

    Attributes:
        judges: who chose its negatives.
        sha256: of its content.

    Raises:
        UserError: it is no own data, or has no mined negatives.
    """

    def __init__(self, file: Path, datapath: str, out: Path):
        from parlai_prosocial.data import own

        self.judges = own.mining_judges(own.load_rows(str(file), datapath, "train"))
        if not self.judges:
            raise UserError(
                f"--mined {file}: no negative_judges in it; give a file of prosocial mine"
            )
        self.file, self.text = file, file.read_text(encoding="utf-8")
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        self.stem = out / f"mined-{self.sha256[:12]}"

    def fill(self, settings: Sequence[str]) -> list[str]:
        """An arm's settings with the files in their places.

        Raises:
            UserError: a row does not say who chose its negatives, which an arm asks.
        """
        filled = list(settings)
        for place, ending, text in (
            (ALL, ".jsonl", lambda: self.text),
            (UNSAFE_ALONE, "-unsafe.jsonl", self._without_preachy),
        ):
            if any(place in setting for setting in filled):
                file = Path(f"{self.stem}{ending}")
                write_aside(file, text())
                filled = [setting.replace(place, str(file)) for setting in filled]
        return filled

    def _without_preachy(self) -> str:
        from parlai_prosocial.data import own
        from parlai_prosocial.judges.rules import PreachyRules

        rules = PreachyRules().name
        of_negatives = [name for name in own.SCHEMA.fields if name.startswith("negative")]
        lines = []
        for number, line in enumerate(self.text.split("\n"), start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            if row.get("negatives") and not row.get("negative_judges"):
                raise UserError(
                    f"--mined {self.file}: line {number}: negative_judges is missing; give a file "
                    "of prosocial mine, in which every row has it"
                )
            kept = [i for i, judge in enumerate(row.get("negative_judges") or []) if judge != rules]
            for name in of_negatives:
                if row.get(name) is not None:
                    row[name] = [row[name][i] for i in kept]
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        return "".join(lines)


class Scoring:
    """The judges of sampled replies.

    Attributes:
        spec: as ``--judge``, None without.
        options: those of ``unsafe_label`` and ``reply_only`` that are given, see
            :class:`~parlai_prosocial.judges.registry.JudgeOptions`.
        over_cautious: the rules.
    """

    def __init__(
        self,
        spec: str | None,
        machine: Machine,
        mined: MinedData | None,
        allow_mining_judge: bool,
        unsafe_label: str | None = None,
        reply_only: bool = False,
    ):
        from parlai_prosocial.judges.registry import check_options, given_options
        from parlai_prosocial.judges.rules import PreachyRules

        check_options({"--judge": spec}, unsafe_label, reply_only)
        self.spec, self.machine = spec, machine
        self.options = given_options(unsafe_label, reply_only)
        self.mined_by: set[str] = mined.judges if mined and not allow_mining_judge else set()
        self.over_cautious = PreachyRules()

    def spec_of(self, seed: int) -> str | None:
        """Which judge is the seed's; None without ``--judge``."""
        return self.spec and self.spec.replace("{seed}", str(seed))

    def open(self, spec: str) -> Any:
        """Load a judge of unsafe replies.

        Raises:
            UserError: there is none, or it chose the mined negatives.
        """
        from parlai_prosocial.judges.registry import open_judge

        judge = open_judge(spec, self.machine.datapath, self.machine.bf16, **self.options)
        if judge.name in self.mined_by:
            raise UserError(
                f"--judge {spec}: it mined the negatives of --mined, so it cannot score the arms "
                "trained on them; give another judge, or --allow-mining-judge"
            )
        return judge

    def judges_of(self, unsafe: Any, on_mined: bool) -> Any:
        """Those that may judge a model, trained on mined data or not; None without ``--judge``."""
        from parlai_prosocial.experiments.verdict_counts import Judges

        if unsafe is None:
            return None
        return Judges(unsafe, self.over_cautious if self.judges_caution(on_mined) else None)

    def judges_caution(self, on_mined: bool) -> bool:
        """Whether the rules may judge a model, trained on mined data or not."""
        return not (on_mined and self.over_cautious.name in self.mined_by)
