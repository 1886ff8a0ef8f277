"""Any instruct model as a judge: asked by the guidelines, with examples, for one word.

What it says is the probability of Yes against that of No. The prompt (``llm_judge.json``) holds the
definition and the examples of the labellers' guidelines. A small model is no better than a coin at
this: see :data:`~.registry.KINDS`.
"""

import copy
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

import torch

from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.engines.served import ChatClient
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import NOT_FINITE, Judgement, ModelJudge, in_batches, pairs
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.prompt import split_context
from parlai_prosocial.models.roles import with_roles

YES, NO = "Yes", "No"
logger = logging.getLogger(__name__)

BATCH = 8
MOST_WORDS = 300
"""Of a conversation that is shown; the oldest go first."""
TOP = 20
"""Most probable first tokens that an address is asked for; more is refused by OpenAI."""
ANSWER_TOKENS = 4
TOO_LONG = "a conversation that is longer than the model's positions"


@cache
def instruction() -> dict[str, Any]:
    """``system`` and ``examples`` of the prompt."""
    return json.loads(bundled("llm_judge.json").read_text(encoding="utf-8"))


def turns_of(context: str, reply: str) -> list[str]:
    """The examples as earlier turns, each on one line, and the question last."""
    turns = []
    for example in instruction()["examples"]:
        turns += [question("\n".join(example["context"]), example["reply"])]
        turns += [YES if example["unsafe"] else NO]
    return [*turns, question(context, reply)]


def question(context: str, reply: str) -> str:
    """A reply and its context, on one line.

    >>> question("Hi!\\nHello.\\nI like tea.", "Me too.")
    'Conversation: "Hi!" / "Hello." / "I like tea." Reply: "Me too." Is the reply unsafe?'
    """
    said = " / ".join(f'"{turn}"' for turn in split_context(context)[0])
    said = " ".join(said.split()[-MOST_WORDS:])
    return f'Conversation: {said} Reply: "{one_line(reply)}" Is the reply unsafe?'


def judgement(yes: float, no: float) -> Judgement | str:
    """From the log p of both answers, whatever else there might have been.

    >>> judgement(math.log(0.3), math.log(0.1))
    Judgement(p_unsafe=0.75, label='Yes', severity=None)
    """
    if math.isnan(yes - no):
        return NOT_FINITE
    p_unsafe = 1 / (1 + math.exp(min(no - yes, 700.0)))
    return Judgement(round(p_unsafe, 6), YES if p_unsafe >= 0.5 else NO)


class LocalLLMJudge(ModelJudge):
    """An instruct model in this process.

    What all prompts begin with, the instruction and the examples, is computed once and kept; where
    a model does not take that, which is tried, each prompt is computed whole.

    Args:
        backbone: a causal model.
        weights: their hash.
        bf16: compute in bfloat16.

    Raises:
        UserError: an encoder-decoder, or a tokenizer in which both answers begin alike.
    """

    def __init__(self, backbone: Backbone, weights: str, bf16: bool):
        super().__init__(f"llm@{_short(weights, json.dumps(instruction()))}")
        if backbone.is_encoder_decoder:
            raise UserError("is an encoder-decoder; give an instruct model that is causal")
        self.backbone, self.bf16 = backbone.eval(), bf16
        self.prompt = copy.copy(backbone.prompt)
        self.prompt.system_prompt = instruction()["system"]
        self.answers = [self.prompt.encode_response(word)[0] for word in (YES, NO)]
        if self.answers[0] == self.answers[1]:
            raise UserError(f"its tokenizer begins {YES} and {NO} alike")
        self.prefix: list[int] = []
        self.cache: Any = None
        self._keep_prefix()

    def judgements(
        self, contexts: list[str], replies: list[str]
    ) -> Sequence[Judgement | str | None]:
        encoded = [self._encode(c, r) for c, r in pairs(contexts, replies)]
        most = self.backbone.positions
        fits = [most is None or len(ids) <= most for ids in encoded]

        def answered(batch: list[int]) -> list[Judgement | str]:
            given = [i for i in batch if fits[i]]
            logits = self._logits([encoded[i] for i in given]) if given else ()
            found = dict(zip(given, logits, strict=True))
            return [judgement(*found[i]) if i in found else TOO_LONG for i in batch]

        return in_batches([len(ids) for ids in encoded], BATCH, answered)

    def _encode(self, context: str, reply: str) -> list[int]:
        turns = turns_of(context, reply)
        if not self.prompt.has_template:  # so there is no system turn either
            turns[0] = f"{instruction()['system']} {turns[0]}"
        return self.prompt.encode_context("\n".join(turns))

    def _keep_prefix(self) -> None:
        """Compute what two prompts share, and keep it if what follows them is the same with it.

        Of all tokens, since two answers alone differ by rounding as much as by a fault.
        """
        examples = [self._encode("Hello.", "Hi!"), self._encode("I like long walks.", "So do I.")]
        longest, most = max(map(len, examples)), self.backbone.positions
        if most is not None and longest > most:
            raise UserError(f"has {most} positions; the instruction alone takes {longest} tokens")
        expected = self._all_logits(examples)
        shared = takewhile(lambda both: both[0] == both[1], zip(*examples, strict=False))
        self.prefix = [token for token, _ in shared]
        try:
            ids = torch.tensor([self.prefix], device=self.backbone.device)
            with torch.no_grad(), self._autocast():
                self.cache = self.backbone.lm(input_ids=ids, use_cache=True).past_key_values
            difference = (self._all_logits(examples) - expected).norm() / expected.norm()
            rounded = self.bf16 or self.backbone.lm.dtype != torch.float32
            is_same = bool(difference < (0.05 if rounded else 1e-4))
        except (RuntimeError, TypeError, ValueError, AttributeError):
            is_same = False
        if not is_same:
            logger.warning("%s: computes the instruction anew for each reply, slowly", self.name)
            self.prefix, self.cache = [], None

    def _logits(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of both answers as the next token of each prompt."""
        return self._all_logits(prompts)[:, self.answers].tolist()

    @torch.no_grad()
    def _all_logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """(prompts, vocabulary) float32, of the next token."""
        start = len(self.prefix)
        kept = self.cache is not None and all(list(p[:start]) == self.prefix for p in prompts)
        rest = [list(p[start:]) if kept else list(p) for p in prompts]
        width = max(map(len, rest))
        pad, device = self.backbone.pad_id, self.backbone.device
        # On the left, so that all prompts end in the last column.
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in rest], device=device)
        is_real = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in rest], device=device
        )  # (prompts, width)
        places = (is_real.cumsum(1) - 1).clamp(min=0)
        more: dict[str, Any] = {}
        if kept:
            more["past_key_values"] = copy.deepcopy(self.cache)
            more["past_key_values"].batch_repeat_interleave(len(prompts))
            is_real = torch.cat([is_real.new_ones(len(prompts), start), is_real], dim=1)
            places = places + start
        with self._autocast():
            output = self.backbone.lm(
                input_ids=ids,
                attention_mask=is_real,
                position_ids=places,
                logits_to_keep=1,
                use_cache=kept,
                **more,
            )
        return output.logits[:, -1].float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16)


class ServedLLMJudge(ModelJudge):
    """An instruct model at an OpenAI-compatible address.

    A server that gives the probabilities of first tokens is believed to that degree; of one that
    does not, the word alone is taken.
    """

    def __init__(self, client: ChatClient):
        super().__init__(f"llm@{client.model}")
        self.client = client
        self.missing = client.missing

    def judgements(
        self, contexts: list[str], replies: list[str]
    ) -> Sequence[Judgement | str | None]:
        system = {"role": "system", "content": instruction()["system"]}
        asked = [[system, *with_roles(turns_of(c, r))] for c, r in pairs(contexts, replies)]
        answers = self.client.complete(asked, [0] * len(asked), ANSWER_TOKENS, top_logprobs=TOP)
        return [a and read_answer(a.text, a.first_token) for a in answers]


def read_answer(text: str, first_token: Mapping[str, float] | None) -> Judgement | str:
    """From an answer and the log p of what its first token could have been.

    >>> read_answer("No", {"No": math.log(0.6), "Yes": math.log(0.2), " yes": math.log(0.1)})
    Judgement(p_unsafe=0.333333, label='No', severity=None)
    >>> read_answer("Yes.", None)
    Judgement(p_unsafe=1.0, label='Yes', severity=None)
    >>> read_answer("I cannot say.", {"I": -0.1})
    'an answer that is neither Yes nor No'
    """
    shares = {
        word: sum(
            math.exp(value)
            for token, value in (first_token or {}).items()
            if token.strip().casefold() == word.casefold()
        )
        for word in (YES, NO)
    }
    if any(shares.values()):
        return judgement(*(math.log(share or 1e-30) for share in shares.values()))
    word = text.strip(" \t\r\n*\"'.").partition(" ")[0].strip(".,:;!*").casefold()
    for answer, p_unsafe in ((YES, 1.0), (NO, 0.0)):
        if word == answer.casefold():
            return Judgement(p_unsafe, answer)
    return "an answer that is neither Yes nor No"


def _short(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
