"""Chat templates that say for themselves how our models are prompted."""

import json
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.turn_format import TurnFormat
from parlai_prosocial.util.files import read_json

PLAIN_TURNS = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] + ': ' }}"
    "{% endif %}{{ message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""What :class:`~.prompt.Prompt` does for a causal model whose tokenizer has no template."""

_BEGINS_WITH_SYSTEM = "messages and messages[0]['role'] == 'system'"


def load_tokenizer(folder: Path, **settings: Any) -> Any:
    """A folder's tokenizer; of several named chat templates it keeps the one for conversation.

    Raises:
        UserError: none of them is named ``default``.
    """
    from transformers import AutoTokenizer  # half of what -m prosocial --help would take

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **settings)
    if isinstance(tokenizer.chat_template, dict):
        # Where some lie in files of their own, transformers 5 overlooks those in the configuration.
        named = _configured_templates(folder) | tokenizer.chat_template
        if "default" not in named:
            raise UserError(
                f"{folder}: has chat templates named {', '.join(named)}, and none is called "
                "default; name the right one so in its tokenizer_config.json"
            )
        tokenizer.chat_template = named["default"]
    return tokenizer


def _configured_templates(folder: Path) -> dict[str, str]:
    file = folder / "tokenizer_config.json"
    written = read_json(file).get("chat_template") if file.is_file() else None
    if isinstance(written, str):
        return {"default": written}
    return {entry["name"]: entry["template"] for entry in written or ()}


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


def with_default_system(template: str, system_prompt: str, shape: TurnFormat) -> str:
    """The template with our system prompt wherever a conversation gives none.

    The result takes every conversation that ends with the user's turn, and does with it what
    :class:`~.prompt.Prompt` does: it puts a system turn that the template refuses before the
    user's first one, and an empty user's turn where the template wants one.

    Args:
        template: a Jinja template of Hugging Face's kind.
        system_prompt: the text of the system turn.
        shape: how the template takes a conversation.
    """
    # JSON's escapes are Jinja's, but for those of characters beyond ASCII.
    default = json.dumps(system_prompt, ensure_ascii=False)
    empty = "''"
    text = "messages[0]['content']"
    if shape.content_parts:
        default, empty = (f"[{{'type': 'text', 'text': {one}}}]" for one in (default, empty))
        text = f"{text}[0]['text']"
    begins = (
        f"{{% if not ({_BEGINS_WITH_SYSTEM}) %}}{{% set messages = "
        f"[{{'role': 'system', 'content': {default}}}] + messages %}}{{% endif %}}"
    )
    missing = "messages|length < 2"
    if shape.user_begins:
        missing += " or messages[1]['role'] != 'user'"
    if shape.user_needed:
        begins += (
            f"{{% if {missing} %}}{{% set messages = messages[:1] + "
            f"[{{'role': 'user', 'content': {empty}}}] + messages[1:] %}}{{% endif %}}"
        )
    if not shape.system_turn:
        folded = f"({text} + '\\n\\n' + {text.replace('[0]', '[1]', 1)})|trim"
        if shape.content_parts:
            folded = f"[{{'type': 'text', 'text': {folded}}}]"
        begins += f"{{% set messages = [{{'role': 'user', 'content': {folded}}}] + messages[2:] %}}"
    return begins + template
