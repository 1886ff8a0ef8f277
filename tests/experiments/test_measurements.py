"""What a fold's models are measured on."""

from parlai_prosocial.experiments.machine import read_plan
from parlai_prosocial.experiments.measurements import evaluation_data
from parlai_prosocial.training.recipe import RECIPES


def test_replies_are_sampled_in_every_category(tmp_path):
    plan = read_plan(RECIPES / "diasafety")
    data = evaluation_data(str(tmp_path), 0, plan)
    assert len(data.sampled) == plan["sampled_replies"] < len(data.contexts)
    sampled = {c.category for c in data.contexts if c.context in data.sampled}
    assert sampled == {c.category for c in data.contexts} and len(sampled) == 5
