"""Write the bundled files of DiaSafety and Self-dialogue from the folders they were gathered in.

Maintainers run ``python -m parlai_prosocial.data.bundle FOLDER``, where ``FOLDER/diasafety`` holds
``train.json`` and ``val.json`` of thu-coai/DiaSafety at commit 5106a04, and
``FOLDER/self_dialogue`` ``dialogues.jsonl`` made from jfainberg/self_dialogue_corpus at commit
113a1b0 (id, topic, turns), each with its LICENSE. The same input gives the same bytes.
"""

import gzip
import json
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from parlai_prosocial.data.diasafety import cluster_table
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.data.splits import stable_fraction

SELF_DIALOGUE_SHARE = 0.1


def main(folder: Path) -> None:
    diasafety = [
        {**row, "split": split}
        for name, split in (("train.json", "train"), ("val.json", "valid"))
        for row in json.loads((folder / "diasafety" / name).read_text(encoding="utf-8"))
    ]
    _write("diasafety.jsonl.gz", diasafety)
    write_clusters()

    by_topic = defaultdict(list)
    with (folder / "self_dialogue" / "dialogues.jsonl").open(encoding="utf-8") as file:
        for dialogue in map(json.loads, file):
            by_topic[dialogue["topic"]].append(dialogue)
    sample = []
    for dialogues in by_topic.values():
        dialogues.sort(key=lambda dialogue: stable_fraction(f"bundle:{dialogue['id']}"))
        sample += dialogues[: round(len(dialogues) * SELF_DIALOGUE_SHARE)]
    _write("self_dialogue.jsonl.gz", sorted(sample, key=lambda dialogue: dialogue["id"]))

    for name, licence in (("diasafety", "Apache-2.0"), ("self_dialogue", "BSD-3-Clause")):
        target = bundled("licenses") / f"{name}.{licence}.txt"
        shutil.copyfile(folder / name / "LICENSE", target)


def write_clusters() -> None:
    """Write the table of DiaSafety's near-duplicates, which takes seconds to compute."""
    with gzip.open(bundled("diasafety.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["response"].strip()]
    table = cluster_table(rows)
    lines = json.dumps(table, indent=0, sort_keys=True) + "\n"
    bundled("diasafety_clusters.json").write_text(lines, encoding="utf-8")


def _write(name: str, rows: list[dict]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    aside = bundled(name + ".new")
    aside.write_bytes(gzip.compress(lines.encode("utf-8"), compresslevel=9, mtime=0))
    os.replace(aside, bundled(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
