"""The tokenizer as ParlAI's dictionary and history see it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from parlai.core.dict import DictionaryAgent
from parlai.core.opt import Opt
from parlai.core.torch_agent import History

from parlai_prosocial.data.example import ROT_PREFIX, message_lines


class TokenizerDictionary(DictionaryAgent):
    """Gives ParlAI the token ids it asks for; there is no dictionary file to build or load.

    Encoding and decoding go through :class:`parlai_prosocial.models.prompt.Prompt`, which knows
    the chat template.
    """

    def __init__(self, opt: Opt, shared: Any = None, tokenizer: Any = None, pad_id: int = 0):
        self.opt = opt
        self.hf_tokenizer = tokenizer
        self.freq: Counter[str] = Counter()
        if tokenizer is None:  # asked by build_dict whether there is anything to build
            return
        self.tok2ind = tokenizer.get_vocab()
        self.ind2tok = {index: token for token, index in self.tok2ind.items()}
        self.null_token = self.ind2tok[pad_id]
        self.end_token = tokenizer.eos_token
        self.start_token = tokenizer.bos_token or tokenizer.eos_token
        self.unk_token = tokenizer.unk_token or tokenizer.eos_token
        self._unk_token_idx = self.tok2ind[self.unk_token]

    def tokenize(self, text: str, building: bool = False) -> list[str]:
        """The tokens of a text, for ``parlai eval_wordstat``.

        A tokenizer has no counts of its training text: ``freq`` is 0 for all of them, and
        ``--external-dict`` takes them from another dictionary.
        """
        return self.hf_tokenizer.tokenize(text)

    def is_prebuilt(self) -> bool:
        return True

    def txt2vec(self, text: str, vec_type: Any = list) -> Any:
        return vec_type(self.hf_tokenizer(text, add_special_tokens=False)["input_ids"])

    def vec2txt(self, vector: Any, **kwargs: Any) -> str:
        return self.hf_tokenizer.decode(vector, skip_special_tokens=True)


class DialogueHistory(History):
    """History of text only; the prompt encodes it whole, so turns are not encoded one by one."""

    def parse(self, text: str) -> list[int]:
        return []

    def update_history(self, obs: Mapping[str, Any], temp_history: str | None = None) -> None:
        """Add a message; in a history, unlike in a message, a blank line is an empty turn."""
        if (text := obs.get(self.field)) is not None:
            obs = {self.field: "\n".join(message_lines(text))}
        super().update_history(obs, temp_history)

    def add_reply(self, text: str) -> None:
        """Add our own reply as one line: newlines separate turns, and a RoT is nobody's turn."""
        lines = [line for line in text.split("\n") if not line.startswith(ROT_PREFIX)]
        super().add_reply(" ".join(lines).strip())
