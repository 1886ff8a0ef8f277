"""What was exported replies as the agent does where people run it: in llama.cpp.

Skipped where the wheel is not installed (``pip install xllamacpp``); it is no requirement of ours.
"""

import json

import pytest
from transformers import AutoTokenizer

from parlai_prosocial.export.gguf import write_gguf
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.decoding import DEFAULTS, generation_settings
from parlai_prosocial.models.rerank import generate_replies
from parlai_prosocial.zoo.resolve import open_generator

CONTEXTS = [
    f"{opening} {ending}"
    for opening in ("I lied to my flatmate.", "Hi!", "We saw a heron today.", "I feel tired.")
    for ending in ("What now?", "Tell me.", "Is that good?", "Why?", "And you?")
]
MOST_TOKENS = 12
GREEDY = generation_settings(DEFAULTS | {"inference": "greedy"})


@pytest.fixture(scope="module")
def exported(tiny_backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "model"
    export_model(open_generator(tiny_backbones["llama"], "--model"), folder, False, "card")
    return folder


@pytest.fixture(scope="module")
def replies(exported):
    """The agent's greedy replies as token ids, less the one that ends a turn.

    And less those of half a character, which a random model writes and llama.cpp doesn't report.
    """
    backbone = open_generator(exported, "--model").backbone
    prompt = backbone.prompt
    contexts = [prompt.encode_context(context) for context in CONTEXTS]
    found = generate_replies(backbone, contexts, MOST_TOKENS, **GREEDY)
    return [whole(prompt.tokenizer, prompt.without_stop(ids)) for ids in found]


def whole(tokenizer, ids):
    return [i for i in ids if "\ufffd" not in tokenizer.decode([i])]


def test_llama_cpp(exported, replies, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    write_gguf(exported, tmp_path / "model.gguf", "f32")
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "model.gguf")
    params.n_ctx, params.warmup, params.cpuparams.n_threads = 1024, False, 1
    server = xllamacpp.Server(params)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    found = []
    for context in CONTEXTS:
        asked = {"messages": [{"role": "user", "content": context}], "temperature": 0}
        asked |= {"max_tokens": MOST_TOKENS, "logprobs": True, "cache_prompt": False}
        answer = server.handle_chat_completions(asked)
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        [choice] = answer["choices"]
        ids = [token["id"] for token in choice["logprobs"]["content"]]
        found.append(whole(tokenizer, ids))
    # A character of several tokens is reported as its last one, so that some cannot be compared.
    equal = sum(ids == own for ids, own in zip(found, replies, strict=True))
    assert equal >= 0.9 * len(CONTEXTS), list(zip(found, replies, strict=True))
