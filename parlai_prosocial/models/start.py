"""The model that a run starts from: its scores and its adapter, without a second model in memory.

What a run starts from is the model as it is before the first step: the base under a new adapter,
which changes nothing yet; the model of ``--init-model`` where the run goes on from one, its adapter
included. It stays the same where a run is stopped and resumed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.pretrained import loading
from parlai_prosocial.models.scores import CandidateScores
from parlai_prosocial.util.files import writing

TOKENS_PER_PASS = 4096

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of a reply to it."""


class Start:
    """Scores pairs by the model that a run starts from.

    With an adapter, the adapter's weights of the beginning are kept (a few MB) and put in the place
    of the trained ones for a pass. Without one all weights change, so :meth:`score_all` must score
    what will be asked for before the first step.

    Args:
        backbone: the model, before the first step or as a resumed run has loaded it.
        file: where to keep the start for a resumed run, None to keep it in memory only.
        resumed: whether the run goes on after its first step; ``file`` is read then.
        writes: whether this process writes the file.
        autocast: opens the context that the model computes in.

    Raises:
        UserError: a resumed run's file is missing.
    """

    def __init__(
        self,
        backbone: Backbone,
        file: Path | None,
        resumed: bool,
        writes: bool,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.backbone, self.autocast = backbone, autocast
        self.file = file if writes else None
        self.scores: dict[bytes, float] = {}
        self.adapter: dict[str, torch.Tensor] = {}
        self.is_current = not resumed
        """Whether the model is the start still, for the scores of a model without adapter."""
        if resumed:
            if file is None or not file.exists():
                raise UserError(
                    f"{file}: is missing, which has what this run started from; restore it, or "
                    "begin anew with another -mf"
                )
            self._load(file)
        elif backbone.adapted:
            self.adapter = {name: p.detach().clone() for name, p in self._trained()}
            self._save(self.adapter)

    def mean_log_probs(self, pairs: Sequence[Pair]) -> list[float]:
        """Mean log p of each reply by the start, its end-of-turn token left out; kept once known.

        Raises:
            UserError: all weights are trained, and a pair was not scored before the first step.
        """
        keys = [_key(pair) for pair in pairs]
        missing = {k: p for k, p in zip(keys, pairs, strict=True) if k not in self.scores}
        if missing:
            if not (self.adapter or self.is_current):
                raise UserError(
                    "--contrast-reference init: a reply was not scored before training, as it must "
                    "be where all weights are trained; use --lora-rank, or data that stay the same"
                )
            self.scores |= zip(missing, self._score(list(missing.values())), strict=True)
        return [self.scores[key] for key in keys]

    def score_all(self, pairs: Sequence[Pair]) -> None:
        """Score what a model without adapter will be asked for, before its first step."""
        self.mean_log_probs(pairs)
        self.is_current = False
        keys = torch.tensor([list(key) for key in self.scores], dtype=torch.uint8)
        self._save(
            {
                "keys": keys.reshape(len(self.scores), 16),
                "mean_log_probs": torch.tensor(list(self.scores.values()), dtype=torch.float64),
            }
        )

    @torch.no_grad()
    def forward(
        self,
        contexts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[Sequence[int]]],
        keep_logits: bool = False,
    ) -> CandidateScores:
        """One pass of the start over each context's replies, without gradients and dropout."""
        was_training = self.backbone.training
        self.backbone.eval()
        with self._in_place(), self.autocast():
            packed = self.backbone.pack(contexts, replies)
            scores = self.backbone(packed.to(self.backbone.device), keep_logits)
        self.backbone.train(was_training)
        return scores

    def _score(self, pairs: Sequence[Pair]) -> list[float]:
        replies_to: dict[tuple[int, ...], list[int]] = {}
        for i, (context, _) in enumerate(pairs):
            replies_to.setdefault(tuple(context), []).append(i)
        # Like lengths together, the longest first: memory runs out at once or never.
        sizes = {c: len(c) + sum(len(pairs[i][1]) for i in own) for c, own in replies_to.items()}
        order = sorted(replies_to, key=lambda context: -sizes[context])
        found = [0.0] * len(pairs)
        while order:
            count = max(1, TOKENS_PER_PASS // sizes[order[0]])
            batch, order = order[:count], order[count:]
            replies = [[pairs[i][1] for i in replies_to[context]] for context in batch]
            scores = self.forward(batch, replies).mean_log_probs().tolist()
            for i, score in zip((i for c in batch for i in replies_to[c]), scores, strict=True):
                found[i] = score
        return found

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((n, p) for n, p in self.backbone.model.named_parameters() if p.requires_grad)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if not self.adapter:
            yield
            return
        parameters = dict(self._trained())
        trained = {name: p.data for name, p in parameters.items()}
        try:
            for name, p in parameters.items():
                p.data = self.adapter[name].to(p.device)
            yield
        finally:
            for name, p in parameters.items():
                p.data = trained[name]

    def _save(self, tensors: dict[str, torch.Tensor]) -> None:
        if self.file is None:
            return
        part = self.file.with_name(self.file.name + ".part")
        with writing(self.file, part):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
            os.replace(part, self.file)

    def _load(self, file: Path) -> None:
        with loading(file, "what the run started from, as it was written then"):
            tensors = load_file(file)
            if "keys" in tensors:
                keys = [bytes(row) for row in tensors["keys"].tolist()]
                self.scores = dict(zip(keys, tensors["mean_log_probs"].tolist(), strict=True))
                return
            if missing := {name for name, _ in self._trained()} - tensors.keys():
                raise UserError(f"{file}: has no {min(missing)}; restore it, or begin anew")
            if wrong := [name for name, t in tensors.items() if not t.isfinite().all()]:
                raise UserError(f"{file}: {wrong[0]} is not finite; restore it, or begin anew")
            self.adapter = tensors


def divergence_from_start(logits: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """(T, vocabulary) logits of the model and of the start -> (T,) KL(start || model) in nats.

    The direction keeps what the start gives mass to (as Learning without Forgetting does, Li &
    Hoiem 2016). Gradients flow into ``logits`` alone. float32.
    """
    expected = start.detach().float().log_softmax(-1)
    log_probs = logits.float().log_softmax(-1)
    return (expected.exp() * (expected - log_probs)).sum(-1)


def _key(pair: Pair) -> bytes:
    context, reply = pair
    return blake2b(f"{list(context)} {list(reply)}".encode(), digest_size=16).digest()
