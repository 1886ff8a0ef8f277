"""Transformers 4 finds what transformers 5 has written where it looks for it."""

import json

from parlai_prosocial.models.both_versions import (
    drop_token_types,
    make_readable_in_both_versions,
    with_flat_rope,
)


def test_a_folder_is_readable_in_both(tmp_path):
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    tokenizer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<user>"]}
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    make_readable_in_both_versions(tmp_path)
    drop_token_types(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "rope_parameters": rope,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    }
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<user>"],
        "model_input_names": ["input_ids", "attention_mask"],
    }


def test_a_rope_without_scaling_has_none():
    plain = with_flat_rope({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})
    assert (plain["rope_theta"], plain["rope_scaling"]) == (1e4, None)
    assert with_flat_rope({"n_embd": 8}) == {"n_embd": 8}
