"""``-m prosocial``: a Hugging Face language model trained by likelihood and contrast.

The thin ParlAI glue between observations, the backbone's packed passes and its checkpoints. The
loss and its metrics are in ``contrastive.py``, the flags in ``options.py``.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.metrics import SumMetric
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.torch_agent import Batch, Output
from parlai.utils import logging
from parlai.utils.distributed import is_distributed

from parlai_prosocial.agents import options, parlai_flags
from parlai_prosocial.agents.batch_loss import ContrastiveLoss
from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.agents.contrastive import ContrastiveAgent
from parlai_prosocial.agents.dictionary import TokenizerDictionary
from parlai_prosocial.agents.glue import HuggingFaceGlue, refuse_ignored, refuse_torchscript
from parlai_prosocial.agents.reference import Reference
from parlai_prosocial.compat import patches as compat
from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.models.attention import attention, faster_attention
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import Checkpoint, save_checkpoint
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.models.rerank import check_rerank, generate_replies
from parlai_prosocial.models.scores import CandidateScores
from parlai_prosocial.models.text_config import text_config
from parlai_prosocial.util.environment import precision_name
from parlai_prosocial.zoo.resolve import find_base, named
from parlai_prosocial.zoo.sealed import check_measurable

compat.apply()
show_user_errors_as_one_line()


class ProsocialAgent(HuggingFaceGlue, ContrastiveAgent):
    """A Hugging Face causal or encoder-decoder model as a :class:`ContrastiveAgent`."""

    label_truncate: int | None
    text_truncate: int | None

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        options.add_arguments(parser, partial_opt)
        return parser

    def __init__(self, opt: Opt, shared: Any = None):
        if shared is None:
            self.fill_defaults(opt)
            options.check(opt)
            parlai_flags.refuse(opt)
            refuse_torchscript(opt)
            if is_distributed() and not options.trains(opt):
                # There are no gradients to average, and torch refuses a model without any.
                opt["ddp_backend"] = "none"
            if opt.get("fp16"):
                logging.info("--fp16: this agent uses bf16 instead, which needs no loss scaling")
                opt["fp16"], opt["precision"] = False, "bf16"
        self.backbone: Backbone
        self.attention_kernel: str | None = None
        if shared is not None:
            self.backbone = shared["backbone"]
            self.backbone_name = shared["backbone_name"]
            self.bf16 = shared["bf16"]
        super().__init__(opt, shared)
        # A model of few positions sees less than the flags allow.
        self.label_truncate = self.backbone.reply_limit(self.label_truncate)
        self.text_truncate = self.backbone.context_limit(
            self.text_truncate, self.label_truncate or 0
        )
        if shared is None:
            check_rerank(self.backbone, opt["rerank"], opt["rerank_alpha"])
            if self._should_initialize_optimizer():
                self.reference = Reference(self, self.resumed)

    @property
    def contrast_score(self) -> str:
        return self.opt["contrast_score"]

    @property
    def contrast_head(self) -> ContrastHead | None:
        return self.backbone.contrast_head

    def share(self) -> dict[str, Any]:
        shared = super().share()
        shared["backbone"] = self.backbone
        shared["backbone_name"] = self.backbone_name
        shared["bf16"] = self.bf16
        return shared

    # Building, saving, loading

    def build_dictionary(self) -> TokenizerDictionary:
        """Load the backbone: ParlAI asks for the dictionary first, and the tokenizer is in it."""
        path, is_finetune = self._get_init_model(self.opt, None)
        flag = ("--init-model" if is_finetune else "-mf") if path else "--backbone"
        with named(flag, path or ""):
            checkpoint = Checkpoint(path) if path else None
        self.resumed = checkpoint is not None and not is_finetune
        info = checkpoint.info if checkpoint else {}
        self.backbone_name = info.get("backbone", self.opt["backbone"])
        goes_on = self.resumed and self._should_initialize_optimizer()
        self.bf16 = self.computes_in_bf16(checkpoint if goes_on else None)
        if checkpoint is None:
            folder, adapter = find_base(self.backbone_name, flag, self.opt["datapath"]), None
        elif checkpoint.is_adapter:
            base_flag = f"{flag} {path}: its base"
            folder = find_base(self.backbone_name, base_flag, self.opt["datapath"])
            checkpoint.check_base(folder)
            adapter = checkpoint.folder
        else:
            folder, adapter = checkpoint.folder, None
            if is_finetune and not info:
                self.backbone_name = str(folder)
        # A checkpoint of full weights goes on as such; a base may get a new adapter.
        continues_full = checkpoint is not None and adapter is None and bool(info)
        if checkpoint is not None and info:
            self._refuse_ignored(checkpoint)
        # ParlAI seeds after it has built the agent, so a new adapter is seeded here.
        with torch.random.fork_rng(devices=[]), named(flag, path or self.backbone_name):
            torch.manual_seed(self.opt.get("seed") or 0)
            self.backbone = Backbone(
                folder,
                adapter=adapter,
                lora_rank=0 if continues_full else self.opt["lora_rank"],
                contrast_head="cosine" in self.opt["contrast_score"]
                or (checkpoint is not None and checkpoint.has_contrast_head),
                bf16=self.bf16,
                system_prompt=info.get("system_prompt", self.opt["system_prompt"]),
                trainable=self._should_initialize_optimizer(),
            )
            if checkpoint is not None:
                checkpoint.load_contrast_head(self.backbone)
                if options.measures(self.opt):
                    check_measurable(checkpoint, self.opt["datapath"])
        return TokenizerDictionary(
            self.opt, tokenizer=self.backbone.prompt.tokenizer, pad_id=self.backbone.pad_id
        )

    def _refuse_ignored(self, checkpoint: Checkpoint) -> None:
        info = checkpoint.info
        decided = ("backbone", "system_prompt")
        facts: dict[str, Any] = {name: info[name] for name in decided if name in info}
        if self._should_initialize_optimizer():
            facts["lora_rank"] = checkpoint.lora_rank
        refuse_ignored(self.opt, checkpoint.path, facts)

    def build_model(self) -> Backbone:
        trains_head = self.opt["contrast_weight"] > 0 and "cosine" in self.contrast_score
        if self.contrast_head is not None and not trains_head:
            # Distributed training waits for a gradient of everything that asks for one.
            self.contrast_head.requires_grad_(False)
        return self.backbone

    def build_criterion(self) -> ContrastiveLoss:
        return self.build_contrastive_loss()

    def save(self, path: str | None = None) -> None:
        path = path or self.opt.get("model_file")
        if not path:
            return
        info = {
            "backbone": self.backbone_name,
            "system_prompt": self.backbone.prompt.system_prompt,
            "contrast_score": self.opt["contrast_score"],
            "precision": precision_name(self.bf16),
        }
        save_checkpoint(path, self.backbone, info, self.state_dict())
        self.opt.save(path + ".opt")

    def load(self, path: str) -> dict[str, Any]:
        """Training state only: ``build_dictionary`` has loaded the weights already."""
        states = Checkpoint(path).training_state()
        if self.resumed:  # what a run has measured stays as it was
            self.attention_kernel = states.get("attention_kernel")
        return states

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"attention_kernel": self.attention_kernel}

    # From messages to token ids

    def _set_text_vec(self, obs: Message, history: Any, truncate: int | None) -> Message:
        if "text" in obs and "text_vec" not in obs:
            obs["full_text"] = history.get_history_str() or ""
            ids = self.backbone.prompt.encode_context(obs["full_text"], truncate)
            obs["text_vec"] = torch.tensor(ids)
        return obs

    def _vectorize_text(
        self,
        text: str,
        add_start: bool = False,
        add_end: bool = False,
        truncate: int | None = None,
        truncate_left: bool = True,
    ) -> torch.Tensor:
        """Responses only (labels, candidates): end-of-turn included."""
        return torch.tensor(self.backbone.prompt.encode_response(text, truncate))

    def _set_label_vec(
        self, obs: Message, add_start: bool, add_end: bool, truncate: int | None
    ) -> Message | None:
        kind = next((k for k in ("labels", "eval_labels") if k in obs), None)
        if kind is None:
            return None
        if kind + "_vec" not in obs:
            labels = obs[kind]
            label = labels[0] if len(labels) == 1 else self.random.choice(labels)
            obs[kind + "_vec"] = self._vectorize_text(label, truncate=truncate)
            obs[kind + "_choice"] = label
        return obs

    def is_valid(self, obs: Message) -> bool:
        """A message without text, as ParlAI's human sends at the end of input, has no reply."""
        return super().is_valid(obs) and "text_vec" in obs

    def batchify(self, obs_batch: list[Message], sort: bool = False) -> Batch:
        batch = super().batchify(obs_batch, sort=sort)
        if batch.batchsize:
            batch["contexts"] = [obs_batch[i]["text_vec"].tolist() for i in batch.valid_indices]
        return batch

    # Scores

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16)

    def score_examples(
        self, examples: Sequence[Example]
    ) -> tuple[CandidateScores, float, CandidateScores]:
        packed = self.backbone.pack(
            [e.context for e in examples], [[e.response, *e.negatives] for e in examples]
        )
        padding = packed.padding_share
        with self._attention(packed), self.autocast():
            keep_logits = self.is_training and self.opt["casual_kl"] > 0
            scores = self.model(packed.to(self.backbone.device), keep_logits)
        return scores, padding, scores

    def _attention(self, packed: Any) -> AbstractContextManager:
        """The kernel of a training pass: a trial chooses it at the first batch on a CPU."""
        if not self.is_training or self.use_cuda or self.backbone.is_encoder_decoder:
            return nullcontext()
        if self.attention_kernel is None:
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            rows, length = packed.input_ids.shape
            config = text_config(self.backbone.lm)
            self.attention_kernel, why = faster_attention(config, rows, length, dtype)
            precision = precision_name(self.bf16)
            logging.info(f"precision: {precision}; attention: {self.attention_kernel}, {why}")
        return attention(self.attention_kernel)

    def reference_log_probs(self, examples: Sequence[Example]) -> torch.Tensor | None:
        if self.opt["contrast_reference"] != "init" or not self.opt["contrast_weight"]:
            return None
        return torch.tensor(self.reference.log_probs(examples), device=self.backbone.device)

    def casual_kl(
        self, examples: Sequence[Example], scores: CandidateScores, firsts: torch.Tensor
    ) -> torch.Tensor | None:
        return self.reference.casual_kl(examples, scores, firsts) if self.opt["casual_kl"] else None

    def _construct_label_token_losses(
        self, labels: torch.Tensor, model_output: CandidateScores
    ) -> list[list[tuple[str, float]]]:
        losses = (-model_output.token_log_probs).split(model_output.token_counts().long().tolist())
        firsts = [0, *(model_output.candidate_examples.diff() != 0).nonzero().flatten() + 1]
        return [
            list(zip([self.dict[int(t)] for t in label], losses[i].tolist(), strict=False))
            for label, i in zip(labels, firsts, strict=True)
        ]

    # Generation

    def _generate(
        self,
        batch: Batch,
        beam_size: int,
        max_ts: int,
        prefix_tokens: torch.Tensor | None = None,
    ) -> tuple[list[tuple[torch.Tensor, None, None]], list]:
        if prefix_tokens is not None:
            raise UserError("prefix tokens are not supported by -m prosocial")
        with self.autocast():
            replies = generate_replies(
                self.backbone,
                batch.contexts,
                max_ts,
                rerank=self.opt["rerank"],
                alpha=self.opt["rerank_alpha"],
                **generation_settings({**self.opt, "beam_size": beam_size}),
            )
        prompt = self.backbone.prompt
        self._texts = list(map(prompt.reply, batch.contexts, replies))
        return [(torch.tensor(reply), None, None) for reply in replies], []

    def eval_step(self, batch: Batch) -> Output | None:
        output = super().eval_step(batch)
        if output is None or output.text is None:
            return output
        output.text = self._texts
        unfinished = [text is None for text in self._texts]
        if any(unfinished):
            self.record_local_metric("unfinished_thoughts", SumMetric.many(unfinished))
            logging.warning(
                f"{sum(unfinished)} of {len(unfinished)} replies are missing: a thought without an "
                f"end within --label-truncate {self.label_truncate}"
            )
        return output

    def match_batch(
        self, batch_reply: list[Message], valid_inds: Any, output: Output | None = None
    ) -> list[Message]:
        """A reply that is missing is none, not an empty one; people are shown that it is empty."""
        for message in super().match_batch(batch_reply, valid_inds, output):
            if message.get("text", "") is None:
                del message["text"]
                if self.opt.get("interactive_mode"):
                    message["text"] = ""
        return batch_reply

    def self_observe(self, self_message: Message) -> None:
        super().self_observe(Message({"text": ""} | self_message))

    def rank_eval_label_candidates(
        self, batch: Batch, batchsize: int
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Order each example's candidates by mean log p, best first."""
        choices, ordered_scores = [], []
        for context, vectors, texts in zip(
            batch.contexts, batch.candidate_vecs, batch.candidates, strict=True
        ):
            ids = [tuple(vector.tolist()) for vector in vectors]
            distinct = list(dict.fromkeys(ids))  # equal candidates have equal scores
            packed = self.backbone.pack([context], [distinct])
            with self.autocast():
                scores = self.backbone(packed.to(self.backbone.device)).mean_log_probs()
            scores = scores[[distinct.index(candidate) for candidate in ids]]
            values, order = scores.sort(descending=True, stable=True)
            choices.append([texts[i] for i in order])
            ordered_scores.append(values.tolist())
        return choices, ordered_scores
