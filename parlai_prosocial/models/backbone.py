"""A Hugging Face language model made ready: loaded, adapted, scoring and generating."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.causal import CausalScorer
from parlai_prosocial.models.chat_template import load_tokenizer
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.finite import refuse_non_finite
from parlai_prosocial.models.lean_block import make_lean_blocks
from parlai_prosocial.models.pretrained import MODEL_FILES, check_folder, load_adapter, loading
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT, Prompt
from parlai_prosocial.models.scores import CandidateScores
from parlai_prosocial.models.seq2seq import Seq2SeqScorer, pad_right
from parlai_prosocial.models.text_config import text_config

if TYPE_CHECKING:
    from transformers import GenerationConfig

WEIGHT_FILES = ("*.safetensors", "*.bin")
SHORTEST_CONTEXT = 16
"""Tokens of context that must be left beside a reply."""


class Backbone(nn.Module):
    """A causal or encoder-decoder language model with its tokenizer and prompt.

    ``forward`` scores packed candidates, so that distributed training sees one forward pass.

    Args:
        folder: a Hugging Face model folder.
        adapter: a peft adapter folder to put on top, or None.
        lora_rank: rank of a new adapter on all linear layers where ``adapter`` is None; 0 trains
            all weights.
        contrast_head: add the projections of the cosine score.
        bf16: hold frozen weights in bfloat16. Trained weights stay in float32; autocast, which
            the caller opens, does the rest.
        system_prompt: see :class:`Prompt`.
        trainable: False freezes everything (inference).
        tokenizer_folder: where the tokenizer lies, where it is not in ``folder``.

    Raises:
        UserError: the folder holds no model or tokenizer, or the two do not fit together.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        lora_rank: int = 0,
        contrast_head: bool = False,
        bf16: bool = False,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        trainable: bool = True,
        tokenizer_folder: Path | None = None,
    ):
        super().__init__()
        self.folder = folder
        self.tokenizer_folder = tokenizer_folder or folder
        lm, tokenizer = _load(folder, self.tokenizer_folder)
        make_lean_blocks(lm)
        self.is_encoder_decoder = bool(lm.config.is_encoder_decoder)
        self.prompt = Prompt(
            tokenizer, system_prompt, self.is_encoder_decoder, _named_stops(lm.generation_config)
        )
        self.pad_id = pad_token_id(tokenizer)
        self._special_tokens = {
            "bos_token_id": lm.generation_config.bos_token_id,
            "decoder_start_token_id": getattr(lm.config, "decoder_start_token_id", None),
            "eos_token_id": self.prompt.stop_ids,
            "pad_token_id": self.pad_id,
        }
        # Its authors' beams, penalties or min_p would act beside what is asked for.
        lm.generation_config = self.generation_config()
        scorer = Seq2SeqScorer if self.is_encoder_decoder else CausalScorer
        self.scorer = scorer(lm, self.pad_id, self.prompt.stop_ids)
        self.adapted = adapter is not None or lora_rank > 0
        if bf16 and (self.adapted or not trainable):
            lm.to(torch.bfloat16)
        self.model = _adapt(lm, adapter, lora_rank, trainable) if self.adapted else lm
        if not trainable:
            self.requires_grad_(False)
        elif not self.is_encoder_decoder and text_config(self.lm) is not self.lm.config:
            _freeze_beside_text(self.lm)
        self.lm.get_output_embeddings().register_forward_pre_hook(_contiguous)
        refuse_non_finite(self.model, str(adapter or folder))
        self.contrast_head = ContrastHead(text_config(lm).hidden_size) if contrast_head else None

    @property
    def lm(self) -> Any:
        """The language model itself, adapter layers in place."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def positions(self) -> int | None:
        """Most tokens that the model can look at; None where it has no such limit."""
        return getattr(text_config(self.lm), "max_position_embeddings", None)

    def generation_config(self, **settings: Any) -> "GenerationConfig":
        """Hugging Face's settings of ``generate``: these and our special tokens, nothing else."""
        from transformers import GenerationConfig

        return GenerationConfig(**self._special_tokens, **settings)

    @overload
    def reply_limit(self, most: int) -> int: ...

    @overload
    def reply_limit(self, most: int | None) -> int | None: ...

    def reply_limit(self, most: int | None) -> int | None:
        """The longest reply, in tokens, of those up to ``most`` that leaves room for a context."""
        if self.positions is None:
            return most
        room = self.positions if self.is_encoder_decoder else self.positions // 2
        return min(most or room, room)

    @overload
    def context_limit(self, most: int, reply_tokens: int) -> int: ...

    @overload
    def context_limit(self, most: int | None, reply_tokens: int) -> int | None: ...

    def context_limit(self, most: int | None, reply_tokens: int) -> int | None:
        """How long a context may be so that a reply of ``reply_tokens`` still has its positions.

        Args:
            most: tokens that are allowed anyhow; None for any number.
            reply_tokens: longest reply, end-of-turn included.

        Raises:
            UserError: that reply alone takes all positions.
        """
        if self.positions is None:
            return most
        room = self.positions if self.is_encoder_decoder else self.positions - reply_tokens
        if room < SHORTEST_CONTEXT or reply_tokens > self.positions:
            raise UserError(
                f"replies of {reply_tokens} tokens: the model has {self.positions} positions; ask "
                "for shorter ones (--label-truncate, or --max-tokens)"
            )
        return min(most or room, room)

    def pack(
        self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]
    ) -> Any:
        """Token ids of E contexts and of each one's candidates -> a batch for ``forward``."""
        return self.scorer.pack(contexts, candidates)

    def forward(self, batch: Any, keep_logits: bool = False) -> CandidateScores:
        """Score all candidates of a packed batch; see :class:`CandidateScores`."""
        return self.scorer.score(self.lm, batch, keep_logits)

    @torch.no_grad()
    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, **decoding: Any
    ) -> torch.Tensor:
        """Reply to a batch of contexts with Hugging Face's KV-cached ``generate``.

        Args:
            contexts: token ids from ``prompt.encode_context``.
            max_new_tokens: longest reply, end-of-turn included.
            decoding: Hugging Face generation settings (``do_sample``, ``num_beams``, ...).

        Returns:
            (contexts x ``num_return_sequences``, length) int64; new tokens only, the
            end-of-turn token where reached, then padding.
        """
        ids, mask = pad_right(contexts, self.pad_id)
        if not self.is_encoder_decoder:
            # A causal model continues its last position: padding must come before the context.
            shifts = ids.size(1) - mask.sum(1)
            columns = (torch.arange(ids.size(1)) - shifts[:, None]) % ids.size(1)
            ids, mask = ids.gather(1, columns), mask.gather(1, columns)
            if ngram_size := decoding.pop("no_repeat_ngram_size", 0):
                from parlai_prosocial.models.blocking import ReplyNgramBlocking

                decoding["logits_processor"] = [ReplyNgramBlocking(ngram_size, ids.size(1))]
        output = self.lm.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.long().to(self.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=self.prompt.stop_ids,
            **decoding,
        )
        # An encoder-decoder's output begins with its start token, a causal one's with the context.
        return output[:, 1:] if self.is_encoder_decoder else output[:, ids.size(1) :]

    def reply_ids(self, generated: torch.Tensor) -> list[int]:
        """(length,) generated tokens -> ids up to and with the end-of-turn token.

        Pad and end-of-turn may be the same token, so the first end-of-turn decides, never padding.
        """
        ids = generated.tolist()
        ends = (i + 1 for i, token in enumerate(ids) if token in self.prompt.stop_ids)
        return ids[: next(ends, len(ids))]


def pad_token_id(tokenizer: Any) -> int:
    """A pad token that is not the end-of-turn token, where the vocabulary has one.

    SmolLM2's tokenizer names its end-of-turn token as padding; ``<|endoftext|>`` is free there.
    """
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return tokenizer.pad_token_id
    end_of_text = tokenizer.get_vocab().get("<|endoftext|>")
    return tokenizer.eos_token_id if end_of_text is None else end_of_text


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a model folder's weight files in name order; what an adapter is tied to."""
    digest = hashlib.sha256()
    for pattern in WEIGHT_FILES:
        for file in sorted(folder.glob(pattern)):
            with open(file, "rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
    return digest.hexdigest()


def _load(folder: Path, tokenizer_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    with loading(folder, MODEL_FILES):
        check_folder(folder)
        tokenizer = load_tokenizer(tokenizer_folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        # Safetensors only: a .bin file would be unpickled.
        lm: Any = auto.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False
        )
    vocabulary = lm.get_input_embeddings().weight.size(0)
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{tokenizer_folder}: its tokenizer has {len(tokenizer)} tokens but the model only "
            f"{vocabulary} embeddings; they belong to different models, put the right tokenizer "
            "files there"
        )
    return lm.float(), tokenizer


def _named_stops(config: "GenerationConfig") -> list[int]:
    """The tokens that a model's own generation settings end a text at."""
    named = config.eos_token_id
    if named is None:
        return []
    return list(named) if isinstance(named, list | tuple) else [named]


def _contiguous(_layer: nn.Module, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What generate asks for, each row's last states, is a slice of all of them.

    torch 2.13 takes 500 times as long for its product with a matrix, in bfloat16 on a CPU.
    """
    return tuple(state.contiguous() for state in states)


def _freeze_beside_text(lm: Any) -> None:
    """What sees images or hears gets no gradient, for which distributed training would wait.

    Args:
        lm: a causal model with a text model among others.
    """
    reads_and_writes = (lm.get_decoder(), lm.get_output_embeddings())
    trained = {id(p) for module in reads_and_writes for p in module.parameters()}
    for parameter in lm.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)


def _adapt(lm: Any, adapter: Path | None, rank: int, trainable: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    from parlai_prosocial.models.lean_lora import make_lean

    if adapter is not None:
        model = load_adapter(lm, adapter, trainable)
        make_lean(model)
        return model
    task = TaskType.SEQ_2_SEQ_LM if lm.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task
    )
    model = get_peft_model(lm, config)
    make_lean(model)
    return model
