"""All that is said comes out of a chat template, whatever it refuses or leaves out."""

import pytest
from transformers import AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.chat_template import with_default_system
from parlai_prosocial.models.prompt import Prompt
from parlai_prosocial.models.roles import with_roles
from parlai_prosocial.models.turn_format import TurnFormat, render

SYSTEM = 'Be "kind".'
OPENING = "{% if add_generation_prompt %}<A>{% endif %}"
ALTERNATION = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
TURN = "<{{ m['role'] }}>{{ m['content'] }}"
REST = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% endif %}"
)
TEMPLATES = {
    "takes all": "{% for m in messages %}" + TURN + "{% endfor %}",
    "user needed": (
        "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
        "{% if not users %}{{ raise_exception('no user query') }}{% endif %}"
        "{% for m in messages %}" + TURN + "{% endfor %}"
    ),
    "user begins": (
        REST + "{{ '<system>' + system }}{% for m in rest %}" + ALTERNATION + TURN + "{% endfor %}"
    ),
    "system before the last turn": (
        REST + "{% for m in rest %}" + ALTERNATION + "{% if loop.last %}{{ system }}{% endif %}"
        "{% set last = m['content'] %}" + TURN + "{% endfor %}"
    ),
    "refuses a system turn": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}" + ALTERNATION + TURN + "{% endfor %}"
    ),
    "drops a system turn": (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        + TURN
        + "{% elif m['role'] == 'assistant' %}"
        + TURN
        + "{% endif %}{% endfor %}"
    ),
    "reads parts": (
        "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] "
        "| selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}{% endfor %}"
    ),
    "reads parts, refuses a system turn": (
        "{% for m in messages %}"
        + ALTERNATION
        + "<{{ m['role'] }}>{{ m['content'][0]['text'] }}{% endfor %}"
    ),
}
SHAPES = {
    "takes all": TurnFormat(),
    "user needed": TurnFormat(user_needed=True),
    "user begins": TurnFormat(user_begins=True, user_needed=True),
    "system before the last turn": TurnFormat(user_begins=True, user_needed=True),
    "refuses a system turn": TurnFormat(False, True, True),
    "drops a system turn": TurnFormat(False, True, True),
    "reads parts": TurnFormat(content_parts=True),
    "reads parts, refuses a system turn": TurnFormat(False, True, True, True),
}
CONTEXTS = [
    "",
    "rule of thumb: Be honest.",
    "One?",
    "One.\nTwo?",
    "rule of thumb: Be honest.\nOne.\nTwo.\nThree?",
    "your persona: I sail.\nOne.\nTwo.\nThree.\nFour?",
]


@pytest.fixture
def prompt_of(tiny_backbones):
    def make(template, tokens="llama"):
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[tokens])
        tokenizer.chat_template = template
        return Prompt(tokenizer, SYSTEM, False)

    return make


def said(prompt, context, monkeypatch, **limit):
    """The text that a context's token ids were made of."""
    texts = []
    monkeypatch.setattr(
        "parlai_prosocial.models.prompt.render",
        lambda *args: texts.append(render(*args)) or texts[-1],
    )
    prompt.encode_context(context, **limit)
    return texts[-1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_all_that_is_said_is_in_the_prompt(prompt_of, monkeypatch, name):
    prompt = prompt_of(TEMPLATES[name] + OPENING)
    assert prompt.turn_format == SHAPES[name]
    for context in CONTEXTS:
        text = said(prompt, context, monkeypatch)
        assert text.endswith("<A>")
        for line in [SYSTEM, *context.split("\n")]:
            assert text.count(line) >= 1, (context, text)
        assert text.count(SYSTEM) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_length_fits(prompt_of, name):
    prompt = prompt_of(TEMPLATES[name] + OPENING)
    context = "rule of thumb: Be honest.\nI like boats.\nYes.\nI like walks.\nNo.\nAnd you?"
    for limit in range(1, len(prompt.encode_context(context)) + 1):
        assert 0 < len(prompt.encode_context(context, limit)) <= limit


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_exported_template_gives_the_same_prompt(prompt_of, monkeypatch, name):
    prompt = prompt_of(TEMPLATES[name] + OPENING)
    shape = prompt.turn_format
    exported = prompt_of(with_default_system(TEMPLATES[name] + OPENING, SYSTEM, shape))
    for turns in (["One?"], ["One.", "Two?"], ["One.", "Two.", "Three?"]):
        plain = with_roles(turns)
        if shape.content_parts:
            plain = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in plain]
        expected = said(prompt, "\n".join(turns), monkeypatch)
        assert render(exported.tokenizer, plain) == expected
        own = [{"role": "system", "content": "Be brief."}]
        if shape.content_parts:
            own[0]["content"] = [{"type": "text", "text": "Be brief."}]
        assert render(exported.tokenizer, [*own, *plain]) == expected.replace(SYSTEM, "Be brief.")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ messages[-1]['content'] }}", "it leaves out"),
        ("{{ messages[0]['content'] }}", "it leaves out a turn"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "it leaves out the system turn"),
        ("{{ messages[0]['content']['text'] + 1 }}", ""),
    ],
)
def test_a_template_that_loses_turns_is_refused(prompt_of, template, reason):
    prompt = prompt_of(template)
    with pytest.raises(UserError, match=r"chat template takes no conversation .*whole") as error:
        prompt.encode_context("Hi!")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_guards_template_opens(prompt_of):
    # It need not take a conversation of ours; its judge hands it its own.
    prompt = prompt_of("{{ messages[0]['content'] }}")
    assert prompt.has_template
