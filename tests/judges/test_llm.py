"""An instruct model as a judge: what it is asked, and what its answer is worth."""

import json
import math
import shutil

import pytest
import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.validation.labels.sheets import GUIDELINES
from parlai_prosocial.judges import llm
from parlai_prosocial.judges.llm import NO, YES, instruction, turns_of
from parlai_prosocial.judges.registry import KINDS, open_judge

CONTEXTS = ["I took what is not mine.", "Hi!\nHello.\nI like to walk.", "I feel tired today."] * 3
REPLIES = ["Great, take more!", "Me too.", "You could rest, and drink some water."] * 3


def test_the_examples_are_those_of_the_guidelines():
    text = GUIDELINES.read_text("utf-8")
    examples = instruction()["examples"]
    for example in examples:
        assert f'"{example["reply"]}"' in text
        assert all(f'"{turn}"' in text for turn in example["context"])
    assert sum(example["unsafe"] for example in examples) == len(examples) / 2


@pytest.fixture(scope="module")
def folder(tiny_backbones, tmp_path_factory):
    """A random llama with positions enough for the examples in its few tokens."""
    place = tmp_path_factory.mktemp("long") / "llama"
    shutil.copytree(tiny_backbones["llama"], place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return place


def test_p_unsafe_is_the_share_of_yes_computed_plainly(folder, tmp_path):
    judge = open_judge(f"llm:{folder}", str(tmp_path), bf16=False)
    assert len(judge.prefix) > 200 and judge.cache is not None
    found = judge.judge(CONTEXTS, REPLIES)
    for context, reply, one in zip(CONTEXTS, REPLIES, found, strict=True):
        ids = judge.prompt.encode_context("\n".join(turns_of(context, reply)))
        with torch.no_grad():
            logits = judge.backbone.lm(torch.tensor([ids])).logits[0, -1]
        words = [judge.prompt.encode_response(word)[0] for word in (YES, NO)]
        assert one.p_unsafe == pytest.approx(float(logits[words].softmax(0)[0]), abs=1e-4)
    assert len({one.p_unsafe for one in found}) == 3
    assert judge.name.startswith("llm@") and judge.missing.total() == 0


def test_without_a_cache_the_answers_are_the_same(folder, tmp_path, monkeypatch):
    kept = open_judge(f"llm:{folder}", str(tmp_path), bf16=False)
    expected = [one.p_unsafe for one in kept.judge(CONTEXTS, REPLIES)]
    kept.cache = None
    assert [x.p_unsafe for x in kept.judge(CONTEXTS, REPLIES)] == pytest.approx(expected, abs=1e-4)


def test_a_prompt_that_does_not_fit_is_missing(folder, tmp_path):
    judge = open_judge(f"llm:{folder}", str(tmp_path), bf16=False)
    judge.backbone.lm.config.max_position_embeddings = len(judge.prefix) + 150
    long = "so " * 290
    assert [x is None for x in judge.judge(["Hi!", long], ["Hello.", "Oh."])] == [False, True]
    assert judge.missing == {llm.TOO_LONG: 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t5", "is an encoder-decoder"),
        ("gpt2", "its tokenizer begins Yes and No alike"),
        ("llama", "has 1024 positions; the instruction alone takes"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused(tiny_backbones, tmp_path, name, message):
    with pytest.raises(UserError, match=rf"--judge llm:.*{message}"):
        open_judge(f"llm:{tiny_backbones[name]}", str(tmp_path), bf16=False)


def test_an_address_gives_the_first_tokens_probabilities(chat_server, tmp_path):
    def answer(body, before):
        last = body["messages"][-1]["content"]
        if "take more" in last:
            tops = [{"token": "Yes", "logprob": math.log(0.6)}]
            tops += [{"token": " No", "logprob": math.log(0.2)}, {"token": "I", "logprob": -2}]
            message = {"role": "assistant", "content": "Yes"}
            choice = {"message": message, "finish_reason": "stop"}
            return 200, {"choices": [choice | {"logprobs": {"content": [{"top_logprobs": tops}]}}]}
        return 200, "No." if "Me too" in last else "Who can say?"

    chat_server.answer = answer
    judge = open_judge(f"llm:{chat_server.address}", str(tmp_path), bf16=False)
    found = judge.judge(CONTEXTS[:3], REPLIES[:3])
    assert found[0].p_unsafe == pytest.approx(0.75) and found[1].p_unsafe == 0.0
    assert found[2] is None  # never safe
    assert judge.missing == {"an answer that is neither Yes nor No": 1}
    [first, *_] = chat_server.requests
    assert first["logprobs"] is True and first["top_logprobs"] == 20
    assert first["messages"][0] == {"role": "system", "content": instruction()["system"]}
    assert [m["content"] for m in first["messages"][2::2]].count(YES) == 6


def test_its_help_says_what_a_small_one_is_worth():
    assert "AUC 0.46 on 240" in KINDS["llm"].about and "a coin" in KINDS["llm"].about
