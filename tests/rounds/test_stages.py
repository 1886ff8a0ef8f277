import json

import pytest

from parlai_prosocial.rounds.stages import held_out


@pytest.mark.parametrize(("limit", "harmless", "others"), [(2, 2, 2), (6, 6, 3), (None, 12, 3)])
def test_many_harmless_contexts_leave_room_for_the_others(tmp_path, limit, harmless, others):
    file = tmp_path / "contexts.jsonl"
    labels = ["__casual__"] * 12 + ["__needs_caution__"] * 3
    rows = [
        {"context": [f"Turn {i}."], "response": "Well.", "safety_label": x, "split": "valid"}
        for i, x in enumerate(labels)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = held_out("prosocial:Own", str(tmp_path), [f"prosocial-data={file}"], limit)
    assert (sum(found.casual), len(found.casual) - sum(found.casual)) == (harmless, others)
