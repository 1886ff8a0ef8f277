"""Contexts and responses as token ids: roles, the system turn, truncation, the end of turn."""

import json
import shutil
import time

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import pad_token_id
from parlai_prosocial.models.chat_template import load_tokenizer
from parlai_prosocial.models.prompt import Prompt, split_context

SYSTEM = "Be kind."


@pytest.fixture
def chat(tiny_backbones):
    return Prompt(AutoTokenizer.from_pretrained(tiny_backbones["llama"]), SYSTEM, False)


@pytest.fixture
def plain(tiny_backbones):
    return Prompt(AutoTokenizer.from_pretrained(tiny_backbones["gpt2"]), SYSTEM, False)


@pytest.fixture
def encoder(tiny_backbones):
    return Prompt(AutoTokenizer.from_pretrained(tiny_backbones["t5"]), SYSTEM, True)


def read(prompt, ids):
    return prompt.tokenizer.decode(ids)


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def test_persona_knowledge_and_rots_are_nobodys_turn():
    turns, system_lines = split_context(
        "your persona: I sail.\npartner's persona: I knit.\nHi!\n__knowledge__ Boats float.\n"
        " Hello. \nrule of thumb: be honest.\nDo you sail?"
    )
    assert turns == ["Hi!", "Hello.", "Do you sail?"]
    assert system_lines == [
        "your persona: I sail.",
        "partner's persona: I knit.",
        "__knowledge__ Boats float.",
        "rule of thumb: be honest.",
    ]


def test_nobody_swaps_roles_where_nothing_was_said(chat):
    turns, _ = split_context("your persona: I sail.\n\n\nHi!\n  \nAre you there?")
    assert turns == ["Hi!", "", "Are you there?"]
    turns, _ = split_context("Hi!\nHello.\n")  # the last turn is always the user's
    assert turns == ["Hi!", "Hello.", ""]
    said = read(chat, chat.encode_context("Hi!\n\nAre you there?"))
    assert turn("user", "Hi!") + turn("assistant", "") + turn("user", "Are you there?") in said


NO_SYSTEM_TURN = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hi!", [("user", f"{SYSTEM}\n\nHi!")]),
        ("Hi!\nWhy?", [("user", SYSTEM), ("assistant", "Hi!"), ("user", "Why?")]),
        ("your persona: I sail.\nHi!", [("user", f"{SYSTEM}\nyour persona: I sail.\n\nHi!")]),
    ],
)
def test_a_template_that_refuses_a_system_turn(chat, text, said):
    chat.tokenizer.chat_template = NO_SYSTEM_TURN
    prompt = Prompt(chat.tokenizer, SYSTEM, False)
    expected = "".join(turn(*one) for one in said) + "<|im_start|>assistant\n"
    assert read(prompt, prompt.encode_context(text)) == expected


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("a?", ["user"]),
        ("a.\nb?", ["assistant", "user"]),
        ("a.\nb.\nc?", ["user", "assistant", "user"]),
        ("a.\nb.\nc.\nd?", ["assistant", "user", "assistant", "user"]),
    ],
)
def test_the_last_line_is_the_users_and_roles_alternate_back(chat, text, roles):
    said = [turn(role, line) for role, line in zip(roles, text.split("\n"), strict=True)]
    expected = turn("system", SYSTEM) + "".join(said) + "<|im_start|>assistant\n"
    assert read(chat, chat.encode_context(text)) == expected


def test_system_lines_follow_the_fixed_prompt_in_the_system_turn(chat):
    text = read(chat, chat.encode_context("your persona: I sail.\nHi!\nrule of thumb: be kind."))
    assert text.startswith(
        turn("system", f"{SYSTEM}\nyour persona: I sail.\nrule of thumb: be kind.")
        + turn("user", "Hi!")
    )


def test_the_templates_own_system_message_never_appears(chat):
    # Without a system turn the template adds one of its own, so the same model would see another
    # prompt before and after tuning.
    unguarded = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi!"}], tokenize=False
    )
    assert "template's default" in unguarded
    assert "template's default" not in read(chat, chat.encode_context("Hi!"))


def test_plain_turns_without_a_template(plain):
    ids = plain.encode_context("rule of thumb: be kind.\nHi!\nHello.\nHow are you?")
    assert read(plain, ids) == (
        "rule of thumb: be kind.\nuser: Hi!\nassistant: Hello.\nuser: How are you?\nassistant:"
    )
    assert read(plain, ids + plain.encode_response("Fine.")) == read(plain, ids) + (
        " Fine.<|endoftext|>"
    )


def test_an_encoder_gets_turns_without_an_opening(encoder):
    assert (
        read(encoder, encoder.encode_context("Hi!\nHello.")) == "assistant: Hi!\nuser: Hello.</s>"
    )


@pytest.mark.parametrize("name", ["chat", "plain", "encoder"])
def test_a_response_ends_with_one_end_of_turn(request, name):
    prompt = request.getfixturevalue(name)
    ids = prompt.encode_response("You could rest.")
    assert ids[-1] == prompt.end_of_turn_id
    assert ids.count(prompt.end_of_turn_id) == 1
    assert prompt.reply([], ids) == "You could rest."


@pytest.mark.parametrize("name", ["chat", "plain", "encoder"])
def test_a_truncated_response_keeps_its_end_of_turn(request, name):
    prompt = request.getfixturevalue(name)
    whole = prompt.encode_response("I like to walk in the park with my dog.")
    ids = prompt.encode_response("I like to walk in the park with my dog.", max_tokens=5)
    assert ids == [*whole[:4], prompt.end_of_turn_id]
    assert prompt.encode_response("I like to walk in the park with my dog.", len(whole)) == whole


def test_truncation_drops_whole_turns_from_the_oldest_on(chat):
    context = "your persona: I sail.\nThe first one is long.\nThe second one.\nThe third?"
    whole = chat.encode_context(context)
    system = turn("system", f"{SYSTEM}\nyour persona: I sail.")
    two_turns = system + turn("assistant", "The second one.") + turn("user", "The third?")
    ids = chat.encode_context(context, max_tokens=len(whole) - 1)
    assert read(chat, ids) == two_turns + "<|im_start|>assistant\n"
    ids = chat.encode_context(context, max_tokens=len(ids) - 1)
    assert read(chat, ids) == system + turn("user", "The third?") + "<|im_start|>assistant\n"


@pytest.mark.parametrize("name", ["chat", "plain", "encoder"])
def test_truncation_keeps_the_most_turns_that_fit(request, name):
    prompt = request.getfixturevalue(name)
    turns = [f"I like {'walks and ' * (n % 4)}boats." for n in range(40)]
    sizes = [len(prompt.encode_context("\n".join(turns[-k:]))) for k in range(1, 41)]
    for limit in range(sizes[0], sizes[-1], 7):
        kept = max(k for k, size in enumerate(sizes, 1) if size <= limit)
        expected = prompt.encode_context("\n".join(turns[-kept:]))
        # Far longer dialogues are cut by doubling and halving, and give the same.
        for dialogue in (turns, ["Hello, are you there?"] * 1000 + turns):
            assert prompt.encode_context("\n".join(dialogue), limit) == expected


@pytest.mark.parametrize("name", ["chat", "plain", "encoder"])
def test_ten_thousand_turns_take_less_than_a_second(request, name):
    prompt = request.getfixturevalue(name)
    dialogue = "\n".join(["This is a turn, and I walked in the park with my dog."] * 10_000)
    prompt.encode_context(dialogue, 128)
    start = time.process_time()
    assert 64 < len(prompt.encode_context(dialogue, 128)) <= 128
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["chat", "plain"])
def test_a_last_turn_that_is_too_long_loses_its_beginning(request, name):
    prompt = request.getfixturevalue(name)
    context = "rule of thumb: be kind.\n" + "I like walks in the park and boats, " * 9 + "do you?"
    limit = len(prompt.encode_context("rule of thumb: be kind.\ndo you?")) + 10
    ids = prompt.encode_context(context, max_tokens=limit)
    text = read(prompt, ids)
    assert len(ids) <= limit
    assert "rule of thumb: be kind.\n" in text or "rule of thumb: be kind.<|im_end|>" in text
    assert "boats, do you?" in text
    opening = "<|im_start|>assistant\n" if name == "chat" else "\nassistant:"
    assert text.endswith(opening)


def test_the_limit_holds_at_any_length(chat):
    context = "A long turn about nothing much at all.\nAnother long turn about nothing.\nAnd you?"
    for limit in range(1, len(chat.encode_context(context)) + 2):
        assert 0 < len(chat.encode_context(context, max_tokens=limit)) <= limit


def test_padding_is_not_the_end_of_turn_where_the_vocabulary_allows(tiny_backbones):
    llama = AutoTokenizer.from_pretrained(tiny_backbones["llama"])
    assert llama.pad_token_id == llama.eos_token_id  # the trap
    assert pad_token_id(llama) == llama.convert_tokens_to_ids("<|endoftext|>")
    t5 = AutoTokenizer.from_pretrained(tiny_backbones["t5"])
    assert pad_token_id(t5) == t5.pad_token_id
    gpt2 = AutoTokenizer.from_pretrained(tiny_backbones["gpt2"])
    assert gpt2.pad_token_id is None
    assert pad_token_id(gpt2) == gpt2.eos_token_id


def test_a_tokenizer_without_an_end_is_refused(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["gpt2"])
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"gpt2: .*no end-of-sequence token.*eos_token"):
        Prompt(tokenizer, SYSTEM, False)


GEMMA = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.mark.parametrize("special", [True, False])
def test_the_templates_own_end_of_turn_ends_a_reply(tiny_backbones, special):
    """As Gemma's <end_of_turn>, which is not its tokenizer's end of sequence."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["gpt2"])
    tokenizer.add_tokens([AddedToken(t, special=special) for t in ("<s>", "<e>")])
    tokenizer.chat_template = GEMMA
    end = tokenizer.convert_tokens_to_ids("<e>")
    prompt = Prompt(tokenizer, SYSTEM, False, [end])
    eos = tokenizer.eos_token_id
    assert prompt.stop_ids == ([end, eos] if special else [eos, end])
    assert prompt.encode_response("Hello.")[-1] == prompt.stop_ids[0]
    for stop in prompt.stop_ids:
        ids = [*tokenizer("Hello.", add_special_tokens=False)["input_ids"], stop]
        assert prompt.ends_with_stop(ids) and prompt.reply([], ids) == "Hello."
    assert not prompt.ends_with_stop(ids[:-1])


def test_of_named_templates_the_default_is_taken(tiny_backbones, tmp_path):
    shutil.copytree(tiny_backbones["llama"], tmp_path / "named")
    file = tmp_path / "named" / "tokenizer_config.json"
    (tmp_path / "named" / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads(file.read_text())
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": GEMMA}]
    file.write_text(json.dumps(config | {"chat_template": named}))
    assert load_tokenizer(tmp_path / "named").chat_template == GEMMA
    # transformers 5 writes the others into files of their own, and then overlooks this one.
    (tmp_path / "named" / "additional_chat_templates").mkdir()
    (tmp_path / "named" / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    assert load_tokenizer(tmp_path / "named").chat_template == GEMMA
    file.write_text(json.dumps(config | {"chat_template": named[:1]}))
    with pytest.raises(UserError, match="templates named tool_use, and none is called default"):
        load_tokenizer(tmp_path / "named")
