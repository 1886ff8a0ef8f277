"""Replies sampled from a model: one small interface, in this process or at an address."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from parlai_prosocial.agents.prosocial import resolve_backbone
from parlai_prosocial.engines.reply_scores import MAX_CONTEXT_TOKENS, SampledReply
from parlai_prosocial.engines.served import ChatClient, Message, is_address
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT, split_context
from parlai_prosocial.zoo.entry import BASES, PREFIX, find_entry
from parlai_prosocial.zoo.install import install
from parlai_prosocial.zoo.resolve import OpenedModel, open_model

logger = logging.getLogger(__name__)

ROWS_PER_BATCH = 64
_FIRST_LOOK = 512
"""Most probable tokens that are looked at first: sorting all 49,152 takes longer than a step."""


class Engine(Protocol):
    """Samples replies.

    Attributes:
        name: the model and its weights, for the record and for telling runs apart.
    """

    name: str

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        """Sample n replies to each newline-packed context.

        Args:
            contexts: as ParlAI packs them, the user's turn last.
            n: replies a context.
            max_tokens: longest reply, end-of-turn included.
            seed: the same seed gives a context the same replies, whatever stands beside it.
            temperature: of the softmax; 0 is greedy.
            top_p: mass of the nucleus (Holtzman et al. 2020), in (0, 1].

        Returns:
            For each context n replies, None where there is none because a call failed.
        """
        ...


class TransformersEngine:
    """Our backbones, in this process: nucleus sampling, batched, KV-cached, sorted by length.

    A context is encoded once for its n replies, and rows that have ended leave the batch. Random
    numbers belong to (seed, context, reply) and not to the batch, so other contexts change no
    reply but by rounding: where the model is computed in fp32 that is rare, in bf16 less so. The
    same batch gives the same bits.

    Args:
        backbone: put into evaluation mode.
        name: see :class:`Engine`.
        bf16: compute in bfloat16.
        system_prompt: instead of the backbone's own (chat templates only).
        max_context_tokens: longest context; the oldest turns go first.
    """

    def __init__(
        self,
        backbone: Backbone,
        name: str,
        bf16: bool = False,
        system_prompt: str | None = None,
        max_context_tokens: int = MAX_CONTEXT_TOKENS,
    ):
        self.backbone = backbone.eval()
        self.name = name
        self.bf16 = bf16
        self.max_context_tokens = max_context_tokens
        self.prompt = backbone.prompt
        if system_prompt is not None:
            self.prompt = replace(backbone.prompt, system_prompt=system_prompt)

    @torch.no_grad()
    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        encoded = [self.prompt.encode_context(c, self.max_context_tokens) for c in contexts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        replies: list[list[SampledReply | None]] = [[] for _ in contexts]
        per_batch = max(1, ROWS_PER_BATCH // n)
        # A model that takes a block mask also takes positions, so that its cache can be shared.
        shared = getattr(self.backbone.scorer, "shares_context", False)
        decode = self._decode_shared if shared else self._decode_each
        for start in range(0, len(order), per_batch):
            batch = order[start : start + per_batch]
            uniforms = torch.stack(
                [_uniforms(seed, contexts[i], k, max_tokens) for i in batch for k in range(n)]
            ).to(self.backbone.device)  # (rows, max_tokens)
            with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16):
                rows = decode([encoded[i] for i in batch], n, uniforms, temperature, top_p)
            for row, ids in enumerate(rows):
                ended = ids[-1] == self.prompt.end_of_turn_id
                replies[batch[row // n]].append(SampledReply(self.prompt.decode(ids), ended))
        return replies

    def _decode_shared(
        self,
        contexts: Sequence[Sequence[int]],
        n: int,
        uniforms: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> list[list[int]]:
        """Token ids of each row's reply, its n rows from one pass over the context."""
        lm, device = self.backbone.lm, self.backbone.device
        output_layer = lm.get_output_embeddings()
        longest = max(map(len, contexts))
        pads = [longest - len(context) for context in contexts]
        ids = torch.tensor(
            [[self.backbone.pad_id] * pad + list(c) for pad, c in zip(pads, contexts, strict=True)],
            device=device,
        )  # (contexts, longest)
        mask = torch.arange(longest, device=device) >= torch.tensor(pads, device=device)[:, None]
        mask = mask.long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = lm.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
        )
        # Renamed in transformers 5.24.
        cache_name = "cache" if hasattr(output, "cache") else "past_key_values"
        cache = getattr(output, cache_name)
        cache.batch_repeat_interleave(n)
        states = output.last_hidden_state[:, -1].repeat_interleave(n, 0)  # (rows, hidden)
        mask = mask.repeat_interleave(n, 0)
        positions = positions[:, -1:].repeat_interleave(n, 0)

        replies: list[list[int]] = [[] for _ in range(len(uniforms))]
        rows = torch.arange(len(uniforms), device=device)
        going = torch.ones_like(rows, dtype=torch.bool)
        for step in range(uniforms.size(1)):
            logits = output_layer(states)  # (rows, vocabulary)
            tokens = nucleus_tokens(logits, uniforms[rows, step], temperature, top_p)
            for row, token, goes in zip(
                rows.tolist(), tokens.tolist(), going.tolist(), strict=True
            ):
                if goes:
                    replies[row].append(token)
            going &= tokens != self.prompt.end_of_turn_id
            left = int(going.sum())
            if not left or step + 1 == uniforms.size(1):
                break
            # Taking rows out copies the cache, so it waits until it pays.
            if left <= 0.75 * len(rows):
                kept = going.nonzero().flatten()
                cache.batch_select_indices(kept)
                rows, tokens, going = rows[kept], tokens[kept], going[kept]
                mask, positions = mask[kept], positions[kept]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            positions = positions + 1
            output = lm.base_model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                **{cache_name: cache},
            )
            states = output.last_hidden_state[:, -1]
        return replies

    def _decode_each(
        self,
        contexts: Sequence[Sequence[int]],
        n: int,
        uniforms: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> list[list[int]]:
        """The same through Hugging Face's generate, the context encoded for every row."""
        generated = self.backbone.generate(
            [context for context in contexts for _ in range(n)],
            uniforms.size(1),
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([_Nucleus(uniforms, temperature, top_p)]),
        )
        return [self.backbone.reply_ids(row) for row in generated]


class OpenAIEngine:
    """A model at an OpenAI-compatible address, one call a reply.

    Args:
        client: the address.
        system_prompt: the system turn.
    """

    def __init__(self, client: ChatClient, system_prompt: str = DEFAULT_SYSTEM_PROMPT):
        self.client = client
        self.name = f"{client.url}#{client.model}"
        self.system_prompt = system_prompt
        self._warned = False

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        conversations = [chat_messages(c, self.system_prompt) for c in contexts for _ in range(n)]
        seeds = [_own_seed(seed, c, k) % 2**31 for c in contexts for k in range(n)]
        answers = self.client.complete(conversations, seeds, max_tokens, temperature, top_p)
        replies = [a and SampledReply(a.text.strip(), a.ended) for a in answers]
        grouped = [replies[i : i + n] for i in range(0, len(replies), n)]
        if temperature > 0 and n > 1 and all(len(set(group)) == 1 for group in grouped):
            self._warn_of_a_greedy_server(n)
        return grouped

    def _warn_of_a_greedy_server(self, n: int) -> None:
        if not self._warned:
            logger.warning(
                "%s: all %d replies to a context are the same, so it does not sample; "
                '`transformers serve` does where generation_config.json says "do_sample": true',
                self.name,
                n,
            )
        self._warned = True


def chat_messages(context: str, system_prompt: str) -> list[Message]:
    """A newline-packed context as an API's messages, in the roles that ``Prompt`` gives."""
    turns, system_lines = split_context(context)
    roles = ("user", "assistant")
    return [
        {"role": "system", "content": "\n".join([system_prompt, *system_lines])},
        *(
            {"role": roles[(len(turns) - 1 - i) % 2], "content": turn}
            for i, turn in enumerate(turns)
        ),
    ]


def nucleus_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Draw each row's token from its nucleus by the row's own random number.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in [0, 1); the draw is the inverse of the nucleus' distribution function.
        temperature: 0 takes the most probable token.
        top_p: the nucleus is the smallest set of most probable tokens with at least this mass.

    Returns:
        (rows,) int64.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> [int(nucleus_tokens(logits, torch.tensor([u]), 1.0, 0.8)) for u in (0.0, 0.62, 0.63, 0.99)]
    [0, 0, 1, 1]
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / temperature).softmax(-1)
    count = min(_FIRST_LOOK, probs.size(-1))
    top, ids = probs.topk(count, -1)
    if count < probs.size(-1) and not (top.sum(-1) >= top_p).all():
        top, ids = probs.sort(-1, descending=True)
    before = top.cumsum(-1) - top
    nucleus = (top * (before < top_p)).cumsum(-1)
    drawn = uniforms.to(nucleus.dtype)[:, None] * nucleus[:, -1:]
    # The last tokens of the row have no mass: rounding must not lead there.
    position = torch.searchsorted(nucleus, drawn, right=True).clamp(max=top.size(-1) - 1)
    position = torch.minimum(position, (before < top_p).sum(-1, keepdim=True) - 1)
    return ids.gather(1, position).squeeze(1)


class _Nucleus(LogitsProcessor):
    """Leaves Hugging Face's greedy search one token to choose: the one drawn."""

    def __init__(self, uniforms: torch.Tensor, temperature: float, top_p: float):
        self.uniforms, self.temperature, self.top_p = uniforms, temperature, top_p
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniforms = self.uniforms[:, self.step]
        tokens = nucleus_tokens(scores, uniforms, self.temperature, self.top_p)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


def _own_seed(seed: int, context: str, reply: int) -> int:
    digest = hashlib.sha256(f"{seed}\n{reply}\n{context}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _uniforms(seed: int, context: str, reply: int, count: int) -> torch.Tensor:
    """(count,) float32 in [0, 1), the reply's own; on the CPU, so that devices draw alike."""
    generator = torch.Generator().manual_seed(_own_seed(seed, context, reply))
    return torch.rand(count, generator=generator)


def open_engine(
    model: str,
    datapath: str,
    bf16: bool,
    system_prompt: str | None = None,
    concurrency: int = 8,
    max_context_tokens: int = MAX_CONTEXT_TOKENS,
) -> Engine:
    """The engine for a model's name.

    Args:
        model: an address ``http://host:port/v1#NAME``; or a checkpoint of ``-m prosocial``
            (ParlAI's ``-mf``); or a zoo entry; or a folder that ``prosocial export hf`` wrote; or
            what ``--backbone`` takes.
        datapath: ParlAI's data path.
        bf16: compute in bfloat16 (not at an address).
        system_prompt: instead of the model's own.
        concurrency: most calls to an address at a time.
        max_context_tokens: see :class:`TransformersEngine`; an address cuts by itself.

    Raises:
        UserError: there is no such model.
    """
    if is_address(model):
        client = ChatClient(model, concurrency)
        return OpenAIEngine(client, system_prompt or DEFAULT_SYSTEM_PROMPT)
    opened = _open(model, datapath, bf16)
    return TransformersEngine(
        opened.backbone.to(best_device()),
        f"{model}@{weights_sha256(opened.folder)[:16]}",
        bf16,
        system_prompt,
        max_context_tokens,
    )


def _open(model: str, datapath: str, bf16: bool) -> OpenedModel:
    def resolve(name: str) -> Path:
        return resolve_backbone(name, datapath)

    path = model
    if model.startswith(PREFIX):
        entry = find_entry(model)
        folder = install(entry, datapath, logger.info)
        path = str(folder if entry.kind in BASES else folder / "model")
    return open_model(path, resolve, bf16)
