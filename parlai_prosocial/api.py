"""One call from Python: a model by any of its names, its reply, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parlai_prosocial.data.annotation import parse_annotation
from parlai_prosocial.data.example import message_lines, rot_lines, split_rots
from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.models.rerank import check_rerank, generate_replies
from parlai_prosocial.zoo.resolve import OpenedModel, open_classifier, open_generator

ANNOTATION_TOKENS = 96


@dataclass(frozen=True)
class Judgement:
    """What a classifier says of a line in its context.

    Attributes:
        label: the most probable class.
        probabilities: of every class, calibrated where the classifier is; they add up to 1.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Reply:
    """A reply, and what is known of it.

    Attributes:
        text: one line; None where the model's thoughts had no end within its longest reply.
        rots: rules of thumb that the reply was given under: those of ``rot_model``, else those
            that the model itself wrote before its reply. None where neither wrote any.
        safety: the classifier's judgement of the reply; None without a classifier or a reply.
        turn_safety: its judgement of the turn that is answered.
        turn_label: ``rot_model``'s safety label of that turn; None without one, or where it wrote
            none.
        scores: ``mean_log_p`` of the reply (nats a token, end of turn included), and ``cosine``
            (-1..1) where the model has a contrast head.
    """

    text: str | None
    rots: list[str] | None
    safety: Judgement | None
    turn_safety: Judgement | None
    turn_label: str | None
    scores: dict[str, float]


class Prosocial:
    """A dialogue model, with a safety classifier and a writer of rules of thumb if you like.

    Made by :meth:`from_pretrained`. Decoding and system prompt are those that the model was
    trained or exported with.
    """

    def __init__(
        self,
        model: OpenedModel,
        classifier: SafetyClassifier | None = None,
        rot_model: OpenedModel | None = None,
    ):
        if not isinstance(model, OpenedModel):
            raise UserError(
                f"Prosocial({model!r}): open a model by its name with "
                f"Prosocial.from_pretrained({model!r})"
            )
        check_rerank(model.backbone, model.decoding["rerank"], model.decoding["rerank_alpha"])
        self.model = model
        self.classifier = classifier
        self.rot_model = rot_model

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        classifier: str | Path | None = None,
        rot_model: str | Path | None = None,
        datapath: str | None = None,
        device: str | None = None,
    ) -> "Prosocial":
        """Open a model; ParlAI is needed for names of its zoo only.

        Args:
            model: ParlAI's ``-mf`` of ``-m prosocial``, ``zoo:prosocial/NAME``, a folder that
                ``prosocial export hf`` wrote, any Hugging Face folder or hub name, a peft adapter's
                folder, or a GGUF file (see :mod:`parlai_prosocial.zoo.resolve`).
            classifier: ``-mf`` of ``-m prosocial/classifier``, or its name in the zoo.
            rot_model: as ``model``; one trained on ``-t prosocial:Canary``. Its rules of thumb
                for a turn that is not casual are put into the context, as Prost does.
            datapath: ParlAI's data path, for the zoo; ParlAI's own where None.
            device: of torch; a GPU where None and there is one.

        Raises:
            UserError: one of them does not exist, or is of another kind.
        """
        where = device or best_device()
        opened = open_generator(model, "model", datapath)
        opened.backbone.to(where)
        judge = writer = None
        if classifier is not None:
            judge = open_classifier(classifier, "classifier", datapath).to(where)
        if rot_model is not None:
            writer = open_generator(rot_model, "rot_model", datapath)
            writer.backbone.to(where)
        return cls(opened, judge, writer)

    def reply(self, history: str | Sequence[str]) -> Reply:
        """Reply to a dialogue.

        Args:
            history: the turns, oldest first, the last one the user's; or all in one text, a turn a
                line. Lines that begin with ``your persona:`` and the like are nobody's turn, as
                everywhere in this package. An empty turn is a turn too; a blank line is none.

        Raises:
            UserError: there is no turn to reply to, or a turn is no text.
        """
        turns = [history] if isinstance(history, str) else list(history)
        for number, turn in enumerate(turns, 1):
            if not isinstance(turn, str):
                raise UserError(
                    f"history: turn {number} is {turn!r}, a {type(turn).__name__}; give texts only"
                )
        if isinstance(history, str):
            lines = message_lines(history)
        else:
            lines = [one_line(turn).strip() for turn in turns]
        if not lines or not lines[-1]:
            raise UserError("history: is empty; give at least the turn to reply to")
        rots, turn_label = None, None
        if self.rot_model is not None:
            written = self._answer(self.rot_model, lines, ANNOTATION_TOKENS)[0]
            if annotation := parse_annotation(written or ""):
                rots, turn_label = annotation.rots, annotation.safety_label
        context = [*rot_lines(rots or []), *lines]
        written, scores = self._answer(self.model, context, self.model.decoding["label_truncate"])
        own_rots, text = ([], None) if written is None else split_rots(written)
        dialogue = "\n".join(lines)
        return Reply(
            text=text,
            rots=rots if rots is not None else own_rots or None,
            safety=None if text is None else self._judge(dialogue, text),
            turn_safety=self._judge("\n".join(lines[:-1]), lines[-1]),
            turn_label=turn_label,
            scores=scores,
        )

    @torch.no_grad()
    def _answer(
        self, model: OpenedModel, lines: Sequence[str], max_tokens: int
    ) -> tuple[str | None, dict[str, float]]:
        backbone, decoding = model.backbone, model.decoding
        max_tokens = backbone.reply_limit(max_tokens)
        limit = backbone.context_limit(decoding["text_truncate"], max_tokens)
        context = backbone.prompt.encode_context("\n".join(lines), limit)
        [ids] = generate_replies(
            backbone,
            [context],
            max_tokens,
            rerank=decoding["rerank"],
            alpha=decoding["rerank_alpha"],
            **generation_settings(decoding),
        )
        packed = backbone.pack([context], [[ids]])
        scored = backbone(packed.to(backbone.device))
        scores = {"mean_log_p": scored.mean_log_probs().item()}
        if backbone.contrast_head is not None:
            states = backbone.contrast_head(scored.context_states, scored.response_states)
            scores["cosine"] = (states[0] * states[1]).sum().item()
        return backbone.prompt.reply(context, ids), scores

    def _judge(self, context: str, line: str) -> Judgement | None:
        if self.classifier is None:
            return None
        probabilities = self.classifier.probabilities([context], [line])[0].tolist()
        by_label = dict(zip(self.classifier.labels, probabilities, strict=True))
        return Judgement(max(by_label, key=by_label.__getitem__), by_label)
