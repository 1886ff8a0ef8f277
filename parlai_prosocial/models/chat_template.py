"""Chat templates that say for themselves how our models are prompted."""

import json
from typing import Any

PLAIN_TURNS = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] + ': ' }}"
    "{% endif %}{{ message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""What :class:`~.prompt.Prompt` does for a causal model whose tokenizer has no template."""

_BEGINS_WITH_SYSTEM = "messages and messages[0]['role'] == 'system'"


def is_plain(template: str | None) -> bool:
    """Whether there is no template, or ours that stands for none."""
    return template is None or template.endswith(PLAIN_TURNS)


def plain_template(tokenizer: Any) -> str | None:
    """:data:`PLAIN_TURNS` for a tokenizer, which may begin every text with a token of its own.

    None where it adds other tokens, which no template can give.
    """
    added = tokenizer("")["input_ids"]
    if not added:
        return PLAIN_TURNS
    return "{{ bos_token }}" + PLAIN_TURNS if added == [tokenizer.bos_token_id] else None


def with_default_system(template: str, system_prompt: str, takes_system_turn: bool) -> str:
    """The template with our system prompt wherever a conversation gives none.

    Args:
        template: a Jinja template of Hugging Face's kind.
        system_prompt: the text of the system turn.
        takes_system_turn: False for templates that refuse one. The result takes it all the same,
            and puts it before the first user turn, as :class:`~.prompt.Prompt` does.
    """
    # JSON's escapes are Jinja's, but for those of characters beyond ASCII.
    default = json.dumps(system_prompt, ensure_ascii=False)
    if takes_system_turn:
        return (
            f"{{% if not ({_BEGINS_WITH_SYSTEM}) %}}{{% set messages = "
            f"[{{'role': 'system', 'content': {default}}}] + messages %}}{{% endif %}}{template}"
        )
    return (
        f"{{% if {_BEGINS_WITH_SYSTEM} %}}{{% set system = messages[0]['content'] %}}"
        f"{{% set messages = messages[1:] %}}{{% else %}}{{% set system = {default} %}}"
        "{% endif %}{% if not messages or messages[0]['role'] != 'user' %}"
        "{% set messages = [{'role': 'user', 'content': ''}] + messages %}{% endif %}"
        "{% set messages = [{'role': 'user', 'content': "
        "(system + '\\n\\n' + messages[0]['content'])|trim}] + messages[1:] %}" + template
    )
