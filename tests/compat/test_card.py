"""``parlai generate_model_card``, as typed, on a model of ours, offline, with our sections."""

import json
import subprocess
import sys

import pytest

from parlai_prosocial.cards.card import PARLAI_SECTIONS
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def model(tiny_backbones, tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "model"
    backbone = Backbone(tiny_backbones["gpt2"])
    info = {"backbone": str(tiny_backbones["gpt2"]), "system_prompt": "Be kind."}
    save_checkpoint(str(path), backbone, info, {})
    opt = {
        "model": "prosocial",
        "backbone": str(tiny_backbones["gpt2"]),
        "task": "diasafety:Contrastive",
        "diasafety_cross_negatives": 1,
        "diasafety_categories": "Biased Opinion",
        "starttime": "Nov26_01-19",
        "lora_rank": 0,
    }
    path.with_name("model.opt").write_text(json.dumps(opt))
    return path


# Both modes in one process, which saves a start; nothing is typed in.
SCRIPT = """
import sys
from parlai.__main__ import main
model, folder = sys.argv[1:]
for more in (["--mode", "gen:data_stats:eval:sample", "--num-examples", "2"], []):
    sys.argv = ["parlai", "generate_model_card", "-mf", model, "-fts", folder, *more]
    main()
"""


def test_parlais_own_card(model, tmp_path):
    from click.testing import CliRunner

    from parlai_prosocial.cli.main import cli

    out = tmp_path / "card"
    arguments = ["export", "card", "--model", str(model), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"parlai generate_model_card -mf {model} -fts {out}" in done.output

    command = [sys.executable, "-c", SCRIPT, str(model), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "No error messages were met" in done.stdout
    sample = json.loads((out / "sample.json").read_text())
    assert sample["negative_weights"]  # numbers in a list, which it could not show

    card = (out / "model_card.md").read_text()
    ours = json.loads((out / "args.json").read_text())["extra_models"][str(model)]
    assert card.startswith("# card\n")
    for section in PARLAI_SECTIONS:
        assert ours[section] in card
    assert "warning: missing" not in card
    assert "2001" not in card
    assert "`ppl`" in card.split("## Evaluation Results")[1]
    row = next(line for line in card.splitlines() if line.startswith("diasafety (Contrastive) |"))
    assert all(cell.strip().replace(".", "").isdigit() for cell in row.split("|")[1:4])
