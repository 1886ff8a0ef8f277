"""Folders of weights that transformers 4 and 5 both read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parlai_prosocial.util.files import read_json, write_json


def make_readable_in_both_versions(folder: Path) -> None:
    """Make what transformers 5 has written readable in 4.56 and 4.57 too.

    These look for the rope's base beside, not in ``rope_parameters``, and take a silent default
    where it is missing; and they know no ``TokenizersBackend`` and no list of
    ``extra_special_tokens``.
    """
    config_file = folder / "config.json"
    if config_file.exists():  # an adapter has none
        config = read_json(config_file)
        if (flat := with_flat_rope(config)) != config:
            write_json(config_file, flat)

    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(config_file, config)


def with_flat_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's ``config.json`` with the rope's base and scaling where transformers 4 has them."""
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" not in rope:
        return dict(config)
    theta = rope.pop("rope_theta")
    scaling = None if rope.get("rope_type") == "default" else rope
    return {**config, "rope_theta": theta, "rope_scaling": scaling}


def drop_token_types(folder: Path) -> None:
    """Tell transformers 4's tokenizer that a generator takes no token types, which it refuses."""
    config_file = folder / "tokenizer_config.json"
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    write_json(config_file, read_json(config_file) | inputs)
