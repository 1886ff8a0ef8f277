"""What ParlAI warns of in vain is not shown; all else is."""

import logging

import pytest
from parlai.utils.logging import logger

from parlai_prosocial.compat import patches
from parlai_prosocial.compat.quiet import changes_are_meant


@pytest.fixture
def told():
    """The warnings that ParlAI's logger lets through."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def lacking(model):
    return (
        f"WARNING: Neither the specified dict file (None) nor the `model_file`.dict file ({model}"
        ".dict) exists, check to make sure either is correct."
    )


def test_only_another_agents_model_lacks_a_dictionary(generator, tmp_path, told):
    patches.apply()
    logger.warning(lacking(generator))
    assert told == []
    (tmp_path / "model").write_bytes(b"\x80 of transformer/generator")
    logger.warning(lacking(tmp_path / "model"))
    logger.warning("loss is no number")
    assert told == [lacking(tmp_path / "model"), "loss is no number"]


def test_what_a_second_step_changes_is_meant(told):
    said = "your model is being loaded with opts that differ from the model"
    with changes_are_meant():
        logger.warning(said)
        logger.warning("loss is no number")
    logger.warning(said)
    assert told == ["loss is no number", said]
