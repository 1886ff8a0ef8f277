"""Every mixture that a recipe ships is one of examples, whatever the lengths of the dialogues."""

import json
from collections import Counter
from math import sqrt
from typing import ClassVar

import pytest
from parlai.core.agents import Agent
from parlai.core.loader import TEACHER_REGISTRY
from parlai.core.opt import Opt
from parlai.core.teachers import DialogTeacher
from parlai.core.worlds import create_task
from parlai.scripts.train_model import TrainModel, set_seed

from parlai_prosocial.compat.flags import parse_setting
from parlai_prosocial.training.recipe import RECIPES, STEPS

EXCHANGES = {
    "dailydialog": 4,
    "empathetic_dialogues": 2,
    "blended_skill_talk": 6,
    "convai2": 7,
    "wizard_of_wikipedia": 5,
}
"""ParlAI's corpora in a recipe, which no test downloads, and how long their dialogues are here."""

EXAMPLES = 6000


def mixtures():
    """(recipe, step, settings) of every step of several tasks, and of every arm of one."""
    own = ["prosocial-data={mined}"]
    yield pytest.param(RECIPES / "improve", "round", own, id="improve round")
    for folder in sorted(RECIPES.iterdir()):
        for step in STEPS:
            if not (folder / f"{step}.opt").exists():
                continue
            own = json.loads((folder / f"{step}.opt").read_text())
            if "," in own["task"]:
                yield pytest.param(folder, step, [], id=f"{folder.name} {step}")
            if (folder / "arms.json").exists():
                for name, arm in json.loads((folder / "arms.json").read_text())["arms"].items():
                    settings = [
                        setting.removeprefix(f"{step}.")
                        for setting in arm.get("set", [])
                        if setting.startswith((f"{step}.task", f"{step}.multitask", f"{step}.pro"))
                    ]
                    if settings:
                        yield pytest.param(folder, step, settings, id=f"{folder.name} {name}")


def stock_teacher(task):
    class Teacher(DialogTeacher):
        def __init__(self, opt, shared=None):
            super().__init__(Opt({**opt, "datafile": task}), shared)
            self.id = task

        def setup_data(self, datafile):
            for dialogue in range(30):
                for turn in range(EXCHANGES[task]):
                    yield {"text": f"{dialogue} {turn}", "labels": [f"reply {turn}"]}, turn == 0

    return Teacher


class Counting(Agent):
    """Counts the tasks of what it observes, and that nothing of an episode is left over."""

    counts: ClassVar[Counter] = Counter()

    def observe(self, observation):
        if not observation.is_padding():
            assert observation["episode_done"]
            self.counts[observation["id"]] += 1
        return observation

    def act(self):
        return {"id": self.id, "text": "yes"}


@pytest.fixture
def mined(tmp_path):
    rows = [
        {"context": f"turn {i}", "response": "reply", "negatives": ["no"], "split": "train"}
        for i in range(40)
    ]
    file = tmp_path / "mined.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(("folder", "step", "settings"), list(mixtures()))
def test_shares_are_of_examples(folder, step, settings, mined, tmp_path, monkeypatch):
    for task in EXCHANGES:
        monkeypatch.setitem(TEACHER_REGISTRY, task, stock_teacher(task))
    arguments = ["-o", str(folder / f"{step}.opt")]
    for setting in settings:
        key, value = parse_setting(setting)
        if key == "prosocial-data":
            value = str(mined)
        arguments += ["--" + key, value]
    arguments += ["--datapath", str(tmp_path), "--datatype", "train"]
    opt = TrainModel.setup_args().parse_args(arguments)
    opt["prosocial_sample"] = True  # of the tasks that have it; the parser knows it for them alone
    weights = opt["multitask_weights"]
    tasks = opt["task"].split(",")
    assert len(weights) == len(tasks)
    monkeypatch.setattr(Counting, "counts", Counter())
    set_seed(0)
    world = create_task(opt, Counting(opt))
    for _ in range(EXAMPLES // opt["batchsize"]):
        world.parley()
    total = Counting.counts.total()
    assert total == EXAMPLES // opt["batchsize"] * opt["batchsize"]
    for task, weight in zip(tasks, weights, strict=True):
        [name] = [name for name in Counting.counts if name.startswith(task)]
        share = weight / sum(weights)
        error = sqrt(share * (1 - share) / total)
        assert abs(Counting.counts[name] / total - share) < 4 * error, task


def test_there_are_mixtures_to_test():
    assert len(list(mixtures())) >= 6
