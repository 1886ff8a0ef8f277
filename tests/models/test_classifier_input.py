"""What is cut, what is marked, and what stays."""

import pytest
from transformers import AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier_input import PairInput, PromptInput
from parlai_prosocial.models.prompt import Prompt

LONG = " ".join(f"w{i}" for i in range(60))


@pytest.fixture
def tokenizer(tiny_encoder):
    return AutoTokenizer.from_pretrained(tiny_encoder)


def parts(tokenizer, encoded):
    """Texts of both sentences, by their types."""
    return tuple(
        tokenizer.decode(
            [i for i, kind in zip(encoded.ids, encoded.types, strict=True) if kind == side],
            skip_special_tokens=True,
        ).strip()
        for side in (0, 1)
    )


def test_the_tokenizer_marks_both_sentences(tokenizer):
    encoded = PairInput(tokenizer).encode("Hi!\nHello.", "Go away.", 64)
    assert parts(tokenizer, encoded) == ("Hi!\nHello.", "Go away.")
    assert encoded.ids == tokenizer("Hi!\nHello.", "Go away.", truncation=False)["input_ids"]


def test_without_a_context_the_line_is_still_the_second_sentence(tokenizer):
    encoded = PairInput(tokenizer).encode("", "Go away.", 64)
    assert parts(tokenizer, encoded) == ("", "Go away.")
    assert encoded.ids[:2] == [tokenizer.cls_token_id, tokenizer.sep_token_id]


@pytest.mark.parametrize(
    ("context", "reply"), [(LONG, "Go away."), ("Go away.", LONG), (LONG, LONG), ("", LONG)]
)
def test_the_context_loses_its_beginning_and_the_reply_its_end(tokenizer, context, reply):
    encoded = PairInput(tokenizer).encode(context, reply, 40)
    first, second = parts(tokenizer, encoded)
    assert len(encoded.ids) == 40
    assert context.endswith(first) and reply.startswith(second)
    assert (first == context) == (context != LONG)
    assert (second == reply) == (reply != LONG)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        name_or_path = "somewhere"

    with pytest.raises(UserError, match="somewhere: needs a fast tokenizer"):
        PairInput(Slow())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("context", ["", "Hi!", f"{LONG}\nHow are you?"])
@pytest.mark.parametrize("reply", ["Go away.", LONG])
def test_a_prompt_keeps_its_end_of_turn_token(tiny_backbones, name, context, reply):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[name])
    encoded = PromptInput(Prompt(tokenizer, "Be kind.", False)).encode(context, reply, 120)
    assert len(encoded.ids) <= 120 and encoded.ids[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(encoded.ids)
    assert reply[:20] in text and context[-10:] in text
