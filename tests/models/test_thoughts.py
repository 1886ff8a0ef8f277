"""A reply is what stands outside of every thought, whoever wrote the marks."""

import pytest

from parlai_prosocial.models.thoughts import (
    opens_thought,
    reply_so_far,
    reply_text,
    without_thoughts,
)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Hello.", "Hello."),
        ("<think>\nHm.\n</think>\n\nHello.", "Hello."),
        ("<THINK>Hm.</THINK>Hello.", "Hello."),
        ("Hm.\n</think>\nHello.", "Hello."),
        ("Hello.<think>Hm.</think>", "Hello."),
        ("<think>a</think>Hello.<think>b</think>", "Hello."),
        ("[THINK]Hm.[/THINK]Hello.", "Hello."),
        ("◁think▷Hm.◁/think▷Hello.", "Hello."),
        ("<seed:think>Hm.</seed:think>Hello.", "Hello."),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
            "<|channel|>final<|message|>Hello.",
            "Hello.",
        ),
        ("<think></think>", ""),
        ("I think <b>so</b>.", "I think <b>so</b>."),
        ("<think>Hm.", None),
        ("<think>Hm.</think>So<think>hm", None),
        ("<|channel|>analysis<|message|>Hm.", None),
    ],
)
def test_the_reply_alone(answer, reply):
    found = without_thoughts(answer)
    assert (found if found is None else found.strip()) == reply


class Tokenizer:
    """Each word is a token, and so is each mark; some are special."""

    words = ("<think>", "</think>", "Hm.", "Hello.", "<end>", "assistant:")

    def __init__(self, *special):
        self.all_special_tokens = [*special, "<end>"]
        self.added_tokens_decoder = {}

    def decode(self, ids, skip_special_tokens):
        words = [self.words[i] for i in ids]
        return " ".join(w for w in words if not skip_special_tokens or w not in self.special)

    @property
    def special(self):
        return self.all_special_tokens


@pytest.mark.parametrize("special", [(), ("<think>", "</think>")])
def test_marks_may_be_special_tokens_or_not(special):
    tokenizer = Tokenizer(*special)
    assert reply_text(tokenizer, [5], [0, 2, 1, 3, 4]) == "Hello."
    assert reply_text(tokenizer, [5], [3, 4]) == "Hello."
    assert reply_text(tokenizer, [5], [0, 2]) is None


def test_a_template_may_open_the_thought():
    tokenizer = Tokenizer()
    assert reply_text(tokenizer, [5, 0], [2, 1, 3, 4]) == "Hello."
    assert reply_text(tokenizer, [5, 0], [2, 4]) is None
    assert reply_text(tokenizer, [5, 0, 1], [3, 4]) == "Hello."
    assert not opens_thought("")


@pytest.mark.parametrize(
    "opened, written, seen",
    [
        (False, "Hello.", "Hello."),
        (False, "<think>Hm.", ""),
        (False, "<think>Hm.</think>Hello.<end>", "Hello."),
        (False, "Hello.<thi", "Hello."),
        (False, "Hello.<think>Hm", "Hello."),
        (False, "I <3 it", "I <3 it"),
        (True, "Hm.", ""),
        (True, "Hm.</thi", ""),
        (True, "Hm.</think>Hello", "Hello"),
    ],
)
def test_a_thought_is_not_seen_while_it_is_written(opened, written, seen):
    assert reply_so_far(Tokenizer(), [5, 0] if opened else [5], written) == seen
