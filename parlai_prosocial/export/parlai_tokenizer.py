"""ParlAI's dictionaries as tokenizers of transformers, with the same ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from parlai_prosocial.errors import UserError

HEADER = "#version: 0.2"
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\r": "\r"}


@dataclass(frozen=True)
class ParlaiDictionary:
    """A dictionary file of ParlAI and what goes with it.

    Attributes:
        file: the dictionary file.
        kind: ``bpe`` (subword-nmt), ``bytelevelbpe`` or ``gpt2``.
        tokens: by id, as transformers' tokenizers spell them.
        merges: pairs of a BPE, the first to be merged first.
        pad_id, start_id, end_id, unknown_id: the special tokens.
        prefix_space: a space is put before every text (not ``bpe``).
        ends_context: ParlAI puts the end token after the context.
    """

    file: Path
    kind: str
    tokens: list[str]
    merges: list[tuple[str, str]]
    pad_id: int
    start_id: int
    end_id: int
    unknown_id: int
    prefix_space: bool
    ends_context: bool

    @property
    def tokenizer_class(self) -> str:
        """transformers' class to open it with.

        For ``bpe``, transformers 4's AutoTokenizer would take a fast class that cannot read it.
        """
        return "BlenderbotSmallTokenizer" if self.kind == "bpe" else "AutoTokenizer"

    def save(self, folder: Path, max_length: int) -> None:
        """Write the tokenizer's files into an existing folder.

        ``AutoTokenizer`` gives the ids that ParlAI gives to a text, with two exceptions of
        transformers' BlenderbotSmallTokenizer, which serves the ``bpe`` kind: it leaves hyphens,
        quotes and other marks than ``. , ! ? ' )`` inside words, where ParlAI parts them. Either
        kind can also be opened as ``BlenderbotTokenizer`` or ``BlenderbotSmallTokenizer``.
        """
        special = {
            "pad_token": self.tokens[self.pad_id],
            "bos_token": self.tokens[self.start_id],
            "eos_token": self.tokens[self.end_id],
            "unk_token": self.tokens[self.unknown_id],
        }
        vocabulary = {token: i for i, token in enumerate(self.tokens)}
        if self.kind == "bpe":
            config = {
                "tokenizer_class": "BlenderbotSmallTokenizer",
                "model_max_length": max_length,
                "truncation_side": "left",
                **special,
            }
            _write_json(folder / "tokenizer_config.json", config)
        else:
            self._byte_level(vocabulary, special, max_length).save_pretrained(folder)
        _write_json(folder / "vocab.json", vocabulary)
        lines = [HEADER, *(" ".join(pair) for pair in self.merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), "utf-8")

    def _byte_level(
        self, vocabulary: dict[str, int], special: dict[str, str], max_length: int
    ) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.BPE(vocabulary, self.merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.prefix_space)
        tokenizer.decoder = decoders.ByteLevel()
        if self.ends_context:
            end = special["eos_token"]
            tokenizer.post_processor = TemplateProcessing(
                single=f"$A {end}", special_tokens=[(end, self.end_id)]
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            add_prefix_space=self.prefix_space,  # transformers 4 believes this, not the tokenizer
            model_max_length=max_length,
            truncation_side="left",
            clean_up_tokenization_spaces=False,
            **special,
        )


def read_dictionary(
    model_file: str, opt: dict[str, Any], datapath: str | None = None
) -> ParlaiDictionary:
    """Read the dictionary of a model of ParlAI.

    Args:
        model_file: ``-mf``; its dictionary is ``model_file.dict``, else the options' ``dict_file``.
        opt: the model's options.
        datapath: ParlAI's data path, where GPT-2's files may lie.

    Raises:
        UserError: a file is missing or broken, or transformers has no such tokenizer.
    """
    file = Path(f"{model_file}.dict")
    if not file.is_file() and opt.get("dict_file"):
        file = Path(opt["dict_file"])
    if not file.is_file():
        raise UserError(f"{model_file}: has no dictionary; put it beside as {model_file}.dict")
    kind = opt.get("dict_tokenizer")
    names = {
        role: opt.get(f"dict_{role}token") or default
        for role, default in (
            ("null", "__null__"),
            ("start", "__start__"),
            ("end", "__end__"),
            ("unk", "__unk__"),
        )
    }
    # ParlAI gives the special tokens the first ids, wherever they stand in the file.
    lines = file.read_text("utf-8").rstrip("\n").split("\n")
    tokens = [*names.values(), *(_unescape(line.split("\t")[0]) for line in lines)]
    tokens = list(dict.fromkeys(tokens))
    lower = bool(opt.get("dict_lower"))
    if kind == "bpe":
        merges = _read_merges(Path(f"{file}.codecs"))
    elif kind == "bytelevelbpe":
        merges = _read_merges(Path(f"{file}-merges.txt"))
    elif kind == "gpt2":
        # ParlAI keeps these two once for all models.
        shared = Path(datapath or ".") / "gpt2"
        merges = _read_merges(_first(Path(f"{file}-merges.txt"), shared / "vocab.bpe"))
        tokens = _spell_out(tokens, _first(Path(f"{file}-vocab.json"), shared / "encoder.json"))
    else:
        raise UserError(
            f"{file}: --dict-tokenizer {kind} has no counterpart in transformers; bpe, "
            "bytelevelbpe and gpt2 have"
        )
    if lower != (kind == "bpe"):
        raise UserError(
            f"{file}: --dict-lower {lower} with --dict-tokenizer {kind} has no counterpart in "
            "transformers, whose tokenizer for bpe lowers all text and for the others none"
        )
    given = opt.get("bpe_add_prefix_space")
    return ParlaiDictionary(
        file=file,
        kind=kind,
        tokens=tokens,
        merges=merges,
        pad_id=0,
        start_id=1,
        end_id=2,
        unknown_id=3,
        prefix_space=kind == "bytelevelbpe" if given is None else bool(given),
        ends_context=opt.get("history_add_global_end_token") == "end",
    )


def _first(own: Path, shared: Path) -> Path:
    """The file beside the dictionary, else the one in ParlAI's data path."""
    if own.is_file() or shared.is_file():
        return own if own.is_file() else shared
    raise UserError(f"{own}: is missing, and so is {shared}; put GPT-2's {shared.name} there")


def _spell_out(tokens: list[str], file: Path) -> list[str]:
    """ParlAI's gpt2 dictionary escapes what is not ASCII; this gives GPT-2's own spelling."""
    spelling = {}
    for token in json.loads(file.read_text("utf-8")):
        escaped = "".join(
            chr(byte) if 32 <= byte < 128 else "\\" + hex(byte).lstrip("0")
            for byte in token.encode("utf-8")
        )
        spelling[escaped] = token
    return [spelling.get(token, token) for token in tokens]


def _read_merges(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise UserError(f"{file}: is missing; it belongs to the dictionary, put it there")
    header, *lines = file.read_text("utf-8").rstrip("\n").split("\n")
    if not header.startswith("#version"):
        raise UserError(f"{file}: does not begin with {HEADER}; older files are not understood")
    merges = []
    for number, line in enumerate(lines, 2):
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise UserError(f"{file}, line {number}: should be two parts with a space between")
        merges.append((left, right))
    return merges


def _unescape(token: str) -> str:
    for escaped, character in _ESCAPES.items():
        token = token.replace(escaped, character)
    return token


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")
