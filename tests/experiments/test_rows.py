"""Which saved rows are taken again, and what a run keeps open; nothing is trained here."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.rows import MEASURED_ON, Rows, run_tasks

ARMS = {
    "n-pair": {"set": [], "mined": None, "definition": {}},
    "mle": {"set": [], "mined": "abc", "definition": {"steps_of": "n-pair"}, "steps_of": "n-pair"},
}


class Scoring:
    """A judge a spec; those of one weight have one name."""

    def __init__(self, spec=None, cautious=True):
        self.spec, self.cautious, self.opened, self.options = spec, cautious, [], {}

    def spec_of(self, seed):
        return self.spec and self.spec.replace("{seed}", str(seed))

    def open(self, spec):
        self.opened.append(spec)
        return SimpleNamespace(name="judge@" + spec[-1])

    def judges_caution(self, on_mined):
        return self.cautious or not on_mined


@pytest.fixture
def make_rows(tmp_path):
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for step in ("step1", "step2"):
        (recipe / f"{step}.opt").write_text("{}")

    def make(arms=ARMS, **scoring):
        plan = dict.fromkeys(MEASURED_ON, 2)
        out = tmp_path / "out"
        return Rows(recipe, out, None, [], 100, arms, plan, None, Scoring(**scoring))

    return make


@pytest.fixture
def measured(monkeypatch):
    """Stands for the training and measuring of a row."""
    row = {"mined": "abc", "unsafe": {}, "over_cautious": {}}
    monkeypatch.setattr(Rows, "_measure", lambda self, seed, name: ({name: dict(row)}, {}))
    return row


def test_a_row_of_another_definition_or_preset_is_refused(make_rows, measured, tmp_path):
    rows = make_rows()
    assert rows.run(0, "mle")[1] is None
    assert rows.saved(0, "mle") == {"mle": measured}
    # Of itself, and of the arm whose numbers of steps it takes.
    for changed in ARMS:
        arm = ARMS[changed] | {"definition": {"steps": ["step1"]}}
        with pytest.raises(UserError, match=f"mle.json: .*arm {changed} changed; give another --o"):
            make_rows(ARMS | {changed: arm}).saved(0, "mle")
    (tmp_path / "recipe" / "step2.opt").write_text('{"batchsize": 3}')
    with pytest.raises(UserError, match=r"mle.json: .*step2.opt changed; give another --out, or "):
        make_rows().saved(0, "mle")


def test_a_row_that_does_not_say_how_it_was_trained_is_taken(make_rows, measured, tmp_path):
    rows = make_rows()
    rows.run(0, "mle")
    file = tmp_path / "out" / "seed-0" / "rows" / "mle.json"
    saved = json.loads(file.read_text())
    del saved["trained_by"]
    file.write_text(json.dumps(saved))
    assert rows.saved(0, "mle") == {"mle": measured}


def test_an_arm_is_judged_again_where_more_judges_or_fewer_may(make_rows, measured):
    make_rows().run(0, "mle")
    assert make_rows(cautious=False).saved(0, "mle") == {}
    del measured["over_cautious"]
    make_rows(cautious=False).run(0, "mle")
    assert make_rows(cautious=False).saved(0, "mle") == {"mle": measured}
    assert make_rows().saved(0, "mle") == {}


def test_one_judge_is_open_and_serves_all_seeds_that_it_is_of(make_rows):
    rows = make_rows(spec="classifier:{seed}/same")
    first = rows.judge(0)
    assert rows._measured_on(1)["judge"] == "judge@e"
    again = rows.judge(0)
    assert again.name == first.name
    assert rows.judge(1) is again
    assert rows.scoring.opened == ["classifier:0/same", "classifier:1/same"]


@dataclass
class Processes:
    """Rows that say in which process they were made."""

    out: Path

    def saved(self, seed, name):
        return {}

    def log(self, seed, name):
        return self.out / f"{seed}.log"

    def run(self, seed, name):
        return float(os.getpid()), None


def test_a_process_ends_with_its_row(tmp_path):
    """So what it leaves in memory does not grow with the rows."""
    done = list(run_tasks(Processes(tmp_path), [(seed, "mle") for seed in range(3)], 2))
    assert len({process for _, process, _ in done}) == 3


def test_a_gpus_memory_is_given_back_after_every_row(tmp_path, monkeypatch):
    import torch

    freed = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    assert len(list(run_tasks(Processes(tmp_path), [(0, "mle"), (1, "mle")], 1))) == len(freed) == 2
