"""Flags that make no sense are refused, each in one line."""

import pytest

from parlai_prosocial.errors import UserError


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0: must be above 0"),
        ({"contrast_weight": -1.0}, "--contrast-weight -1.0: must not be negative"),
        ({"negatives": -1}, "--negatives -1: must not be negative"),
        ({"in_batch_negatives": -2}, "--in-batch-negatives -2: must not be negative"),
        ({"lora_rank": -4}, "--lora-rank -4: must not be negative"),
        ({"contrast_loss": "ranked-margin", "margin": -0.5}, "--margin -0.5: must not be negative"),
        (
            {"contrast_loss": "likelihood-margin", "contrast_score": "likelihood+cosine"},
            "--contrast-score likelihood+cosine: likelihood-margin compares likelihoods only",
        ),
        ({"contrast_loss": "simpo", "beta": 0.0}, "--beta 0.0: must be above 0"),
        ({"beta": 1.0}, "--beta 1.0: is of dpo, simpo; leave it out"),
        ({"contrast_loss": "dpo"}, "--contrast-loss dpo: is relative to a reference"),
        (
            {"contrast_loss": "simpo", "contrast_reference": "init"},
            "--contrast-loss simpo: has no reference",
        ),
        ({"sampling_temperature": 0.0}, "--sampling-temperature 0.0: must be above 0"),
        ({"temperature": float("nan")}, "--temperature nan: must be above 0"),
        ({"contrast_weight": float("nan")}, "--contrast-weight nan"),
        ({"backbone": "./no/such/folder"}, "--backbone ./no/such/folder: no such model"),
        (
            {"backbone": "zoo:prosocial/nothing"},
            "--backbone zoo:prosocial/nothing: no such",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(make_agent, opt, message):
    with pytest.raises(UserError) as error:
        make_agent(**opt)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
