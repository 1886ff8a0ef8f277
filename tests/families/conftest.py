"""A tiny random base of each family, in transformers' own classes, with a template of ours.

A template has its family's traits: where it begins and ends turns, what it refuses, what it leaves
out. Weights are large enough that what is read decides what is written.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

REFUSE_OTHERS = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)
"""As Gemma's, Mistral's and Llama 2's do."""
FIRST_IS_SYSTEM = (
    "{% if messages and messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}"
)
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou were made by somebody.<|im_end|>"
    "\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a family's base is made.

    Attributes:
        config: name of transformers' config class.
        settings: beside the sizes that all share.
        special: the tokenizer's special tokens, ids from 0 on.
        roles: names of the tokenizer's settings -> special tokens.
        template: None for models without one.
        around: (before, after) every text that the tokenizer encodes, as its post-processor does.
        stops: tokens at which a reply ends, the one that we write first.
        generation: of ``generation_config.json``, beside its special tokens.
        added: tokens that are not special.
    """

    config: str
    special: tuple[str, ...]
    roles: dict
    stops: tuple[str, ...]
    template: str | None = None
    settings: dict | None = None
    around: tuple[str, str] | None = None
    generation: dict | None = None
    added: tuple[str, ...] = ()


FAMILIES = {
    # Several stop tokens, none of them the tokenizer's; its template and its tokenizer write BOS.
    "llama3": Family(
        "LlamaConfig",
        ("<|begin|>", "<|end_of_text|>", "<|eot|>", "<|eom|>", "<|header|>", "<|/header|>"),
        {"bos_token": "<|begin|>", "eos_token": "<|end_of_text|>"},
        ("<|eot|>", "<|end_of_text|>", "<|eom|>"),
        "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n\n"
        "{{ m.content | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}",
        settings={"rope_theta": 5e5},
        around=("<|begin|>", ""),
        generation={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    # No BOS; padding and end of text are one token; its own system turn where none is given.
    "qwen2.5": Family(
        "Qwen2Config",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<|im_end|>", "<|endoftext|>"),
        CHATML,
        generation={"do_sample": True, "repetition_penalty": 1.1, "top_k": 20},
    ),
    # Thoughts: the template opens one, and takes those of earlier turns out.
    "qwen3": Family(
        "Qwen3Config",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<|im_end|>", "<|endoftext|>"),
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}",
        settings={"head_dim": 16},
        generation={"do_sample": True, "min_p": 0.05, "presence_penalty": 1.0},
        added=("<think>", "</think>"),
    ),
    # The system turn folded into the user's, strict alternation, another name for the assistant,
    # and layers that see a window only.
    "gemma3": Family(
        "Gemma3TextConfig",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ("<end_of_turn>", "<eos>"),
        "{{ bos_token }}" + FIRST_IS_SYSTEM + REFUSE_OTHERS + "{% for m in turns %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        settings={"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
        around=("<bos>", ""),
        generation={"do_sample": True, "top_k": 64, "cache_implementation": "hybrid"},
    ),
    # As Gemma 3 from 4B on: its text model's settings lie apart, beside those of what sees images.
    "gemma3-images": Family(
        "Gemma3Config",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ("<end_of_turn>", "<eos>"),
        "{{ bos_token }}"
        + CHATML.replace("<|im_start|>", "<start_of_turn>").replace("<|im_end|>", "<end_of_turn>"),
        settings={
            "text_config": {"head_dim": 16, "sliding_window": 160, "query_pre_attn_scalar": 16},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        around=("<bos>", ""),
        generation={"do_sample": True, "top_k": 64, "cache_implementation": "hybrid"},
    ),
    # The system turn refused, strict alternation, no padding, a window.
    "mistral": Family(
        "MistralConfig",
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        ("</s>",),
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('only user and assistant roles are supported') }}{% endif %}"
        "{% set turns = messages %}" + REFUSE_OTHERS + "{% for m in messages %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        settings={"sliding_window": 64},
        around=("<s>", ""),
    ),
    # One matrix for query, key and value; turns end with a token of their own.
    "phi3": Family(
        "Phi3Config",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        ("<|end|>", "<|endoftext|>", "<|assistant|>"),
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        settings={"sliding_window": 2047, "resid_pdrop": 0.1},
    ),
    # Padding is the end of the turn; tied embeddings.
    "smollm2": Family(
        "LlamaConfig",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ("<|im_end|>",),
        CHATML,
        settings={"tie_word_embeddings": True},
    ),
    # Marks of turns are plain text; the first token is the last one too.
    "olmo2": Family(
        "Olmo2Config",
        ("<|endoftext|>", "<|pad|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        ("<|endoftext|>",),
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "olmo": Family(
        "OlmoConfig",
        ("<|endoftext|>", "<|pad|>"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        ("<|endoftext|>",),
        settings={"clip_qkv": 8.0},
    ),
    "gpt2": Family(
        "GPT2Config",
        ("<|endoftext|>",),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        ("<|endoftext|>",),
        settings={"n_positions": 256},
    ),
    "t5": Family(
        "T5Config",
        ("<pad>", "</s>", "<unk>"),
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        ("</s>",),
        settings={"d_kv": 8, "d_ff": 64, "num_layers": 2, "decoder_start_token_id": 0},
        around=("", "</s>"),
    ),
    # Its decoder starts with the end, and is forced to begin and to end.
    "bart": Family(
        "BartConfig",
        ("<s>", "<pad>", "</s>"),
        {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"},
        ("</s>",),
        settings={"max_position_embeddings": 256, "decoder_start_token_id": 2},
        around=("<s>", "</s>"),
        generation={
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "num_beams": 4,
            "no_repeat_ngram_size": 3,
            "early_stopping": True,
        },
    ),
    # Few positions, and its authors' beams.
    "blenderbot": Family(
        "BlenderbotConfig",
        ("<pad>", "<s>", "</s>"),
        {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
        ("</s>",),
        settings={"max_position_embeddings": 128, "decoder_start_token_id": 1},
        around=("", "</s>"),
        generation={
            "num_beams": 10,
            "min_length": 20,
            "length_penalty": 0.65,
            "no_repeat_ngram_size": 3,
            "encoder_no_repeat_ngram_size": 3,
            "forced_eos_token_id": 2,
        },
    ),
}

SIZES = {
    "causal": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    },
    "GPT2Config": {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    "T5Config": {"d_model": 32, "num_heads": 4, "initializer_factor": 2.0},
    "encoder-decoder": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "init_std": 0.2,
    },
}


def build(family: Family, make_tokenizer, folder: Path) -> Path:
    tokenizer = make_tokenizer(list(family.special), **family.roles)
    if family.around is not None:
        first, last = family.around
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first} $A {last}".strip(),
            special_tokens=[(t, family.special.index(t)) for t in (first, last) if t],
        )
    tokenizer.chat_template = family.template
    tokenizer.add_tokens(list(family.added))
    kind = {"BartConfig": "encoder-decoder", "BlenderbotConfig": "encoder-decoder"}
    sizes = SIZES.get(kind.get(family.config, family.config), SIZES["causal"])
    ids = {
        f"{name.removesuffix('_token')}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in family.roles.items()
        if name != "unk_token"
    }
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    settings = {"vocab_size": len(tokenizer)} | none | sizes | ids | (family.settings or {})
    if "text_config" in settings:  # a composite model
        of_text = settings.keys() - family.settings.keys()
        text = {name: settings.pop(name) for name in of_text}
        settings["text_config"] = text | settings["text_config"]
    config = getattr(transformers, family.config)(**settings)
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    torch.manual_seed(0)
    model = auto.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stops = tokenizer.convert_tokens_to_ids(list(family.stops))
    generation = transformers.GenerationConfig(
        **ids | {"eos_token_id": stops if len(stops) > 1 else stops[0]},
        decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
    ).to_dict()
    # Written by hand: transformers refuses to save some of what is published.
    (folder / "generation_config.json").write_text(
        json.dumps({k: v for k, v in (generation | (family.generation or {})).items() if v})
    )
    return folder


@pytest.fixture(scope="session")
def base_of(make_tokenizer, tmp_path_factory):
    """``base_of(name)``: the folder of a family's base."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = build(FAMILIES[name], make_tokenizer, root / name)
        return made[name]

    return find


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return FAMILIES


def pytest_generate_tests(metafunc):
    marks = metafunc.definition.iter_markers("parametrize")
    if "family" in metafunc.fixturenames and not any(m.args[0] == "family" for m in marks):
        metafunc.parametrize("family", FAMILIES, scope="session")
