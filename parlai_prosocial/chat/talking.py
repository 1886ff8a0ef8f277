"""A model's reply while it is written, and what a classifier says of a line."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from parlai_prosocial.chat.lines import as_line
from parlai_prosocial.data.example import ROT_PREFIX, split_rots
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.models.rerank import check_rerank, generate_replies
from parlai_prosocial.models.thoughts import reply_so_far
from parlai_prosocial.zoo.resolve import OpenedModel

ANOTHER_REPLY = {"inference": "nucleus", "topp": 0.9, "sampling_temperature": 0.8}
"""How a model whose own decoding would repeat itself is asked for another reply."""


@dataclass(frozen=True)
class Written:
    """What a model has written.

    Attributes:
        text: its reply on one line.
        rots: the rules of thumb that it wrote before.
    """

    text: str
    rots: list[str]


class StreamingModel:
    """A model to talk to, one reply at a time.

    Args:
        name: what people are told that it is.
        opened: the model, where it is to compute.

    Raises:
        UserError: its options ask for a decoding that it cannot do.
    """

    def __init__(self, name: str, opened: OpenedModel):
        self.name = name
        self.backbone = opened.backbone
        self.decoding = opened.decoding
        self.settings = generation_settings(opened.decoding)
        self.max_tokens: int = self.backbone.reply_limit(opened.decoding["label_truncate"])
        check_rerank(self.backbone, self.decoding["rerank"], self.decoding["rerank_alpha"])
        self._lock = threading.Lock()

    def reply(self, turns: Sequence[str], again: bool = False) -> Iterator[Written]:
        """Reply to a dialogue; close the iterator to stop the model.

        Args:
            turns: oldest first, the last one the user's.
            again: sample, where the model's own decoding would give the same reply.

        Yields:
            What is written so far, without thoughts, and at last all of it. Where the model
            searches with beams, or chooses among replies, only that.

        Raises:
            UserError: a thought has no end, so that there is no reply.
        """
        packed = "\n".join(map(as_line, turns))
        limit = self.backbone.context_limit(self.decoding["text_truncate"], self.max_tokens)
        context = self.backbone.prompt.encode_context(packed, limit)
        settings = self.settings
        if again and not (settings["do_sample"] or self.decoding["rerank"]):
            settings = generation_settings(self.decoding | ANOTHER_REPLY)
        with self._lock:
            if self.decoding["rerank"] or settings["num_beams"] > 1:
                yield self._whole(context, settings)
            else:
                yield from self._streamed(context, settings)

    def _whole(self, context: list[int], settings: dict[str, Any]) -> Written:
        [ids] = generate_replies(
            self.backbone,
            [context],
            self.max_tokens,
            rerank=self.decoding["rerank"],
            alpha=self.decoding["rerank_alpha"],
            **settings,
        )
        return self._read(context, ids)

    def _streamed(self, context: list[int], settings: dict[str, Any]) -> Iterator[Written]:
        tokenizer = self.backbone.prompt.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=False)
        stopped = threading.Event()
        outcome: dict[str, Any] = {}

        def generate() -> None:
            try:
                outcome["ids"] = self.backbone.generate(
                    [context],
                    self.max_tokens,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([_Stopped(stopped)]),
                    **settings,
                )[0]
            except Exception as error:
                outcome["error"] = error
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            so_far = ""
            for chunk in streamer:
                so_far += chunk
                said = reply_so_far(tokenizer, context, so_far)
                yield _written(_without_half_a_prefix(said))
        finally:
            stopped.set()
            thread.join()
        if "error" in outcome:
            raise outcome["error"]
        yield self._read(context, self.backbone.reply_ids(outcome["ids"]))

    def _read(self, context: list[int], ids: list[int]) -> Written:
        text = self.backbone.prompt.reply(context, ids)
        if text is None:
            raise UserError(f"its thoughts had no end within {self.max_tokens} tokens")
        return _written(text)


def _written(written: str) -> Written:
    rots, text = split_rots(written)
    return Written(text, rots)


class _Stopped(StoppingCriteria):
    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _without_half_a_prefix(text: str) -> str:
    """Leave out a last line that may yet become a rule of thumb."""
    before, _, last = text.rpartition("\n")
    return before if ROT_PREFIX.startswith(last.lstrip()) else text


def judge(classifier: SafetyClassifier, turns: Sequence[str]) -> dict[str, Any]:
    """The classifier's ``label`` of the last turn in its context, and its ``probability``."""
    *context, line = map(as_line, turns)
    label, probability = classifier.label_of("\n".join(context), line)
    return {"label": label, "probability": round(probability, 4)}
