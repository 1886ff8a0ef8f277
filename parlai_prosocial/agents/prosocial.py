"""``-m prosocial``: a Hugging Face language model trained by likelihood and contrast.

The thin ParlAI glue: observations become token ids, a batch becomes one packed pass, and its
scores become the loss and ParlAI's metrics. What is contrasted stands in ``contrast.py``, the
flags in ``options.py``.
"""

import time
from dataclasses import replace
from importlib import import_module
from math import log
from pathlib import Path
from random import Random
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric, GlobalAverageMetric
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.torch_agent import Batch
from parlai.core.torch_generator_agent import PPLMetric, TorchGeneratorAgent
from parlai.utils import logging

from parlai_prosocial import compat
from parlai_prosocial.agents import distributed, options
from parlai_prosocial.agents.contrast import (
    ContrastiveLoss,
    Example,
    add_in_batch_negatives,
    contrast_loss,
)
from parlai_prosocial.agents.dictionary import DialogueHistory, TokenizerDictionary
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.models.backbone import Backbone, find_backbone
from parlai_prosocial.models.checkpoint import Checkpoint, save_checkpoint
from parlai_prosocial.models.precision import bf16_is_faster
from parlai_prosocial.models.rerank import check_rerank, generate_replies
from parlai_prosocial.models.scores import CandidateScores

compat.apply()
show_user_errors_as_one_line()

DRIFT_STEPS = 20
"""Steps whose mean log p of positives is the beginning that later ones are held against."""


class ProsocialAgent(TorchGeneratorAgent):
    """Generates like any TorchGeneratorAgent; trains on responses and their negatives.

    Message fields beyond ParlAI's own, all optional: ``negatives``, ``negative_weights`` and
    ``contrast_group`` (DESIGN.md section 3). Without them it trains by likelihood, plus in-batch
    contrast where asked.
    """

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        options.add_arguments(parser)
        return parser

    @classmethod
    def upgrade_opt(cls, opt_from_disk: Opt) -> Opt:
        """No option of ours is old enough for ParlAI's upgrades, and a zoo base names few."""
        return opt_from_disk

    @staticmethod
    def dictionary_class() -> type[TokenizerDictionary]:
        return TokenizerDictionary

    @classmethod
    def history_class(cls) -> type[DialogueHistory]:
        return DialogueHistory

    def __init__(self, opt: Opt, shared: Any = None):
        if shared is None:
            options.check(opt)
            if opt.get("fp16"):
                logging.info("--fp16: this agent uses bf16 instead, which needs no loss scaling")
                opt["fp16"], opt["precision"] = False, "bf16"
        self.backbone: Backbone
        if shared is not None:
            self.backbone = shared["backbone"]
            self.backbone_name = shared["backbone_name"]
            self.bf16 = shared["bf16"]
        self.rng = Random(42)
        self.drift: list[float] = []
        self.pending: list[Any] = []
        super().__init__(opt, shared)
        if shared is None:
            check_rerank(self.backbone, opt["rerank"], opt["rerank_alpha"])

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
        checkpoint = Checkpoint(path) if path else None
        info = checkpoint.info if checkpoint else {}
        self.backbone_name = info.get("backbone", self.opt["backbone"])
        device = torch.device("cuda" if self.use_cuda else "cpu")
        precision = self.opt["precision"]
        self.bf16 = bf16_is_faster(device) if precision == "auto" else precision == "bf16"
        if checkpoint is None:
            folder, adapter = resolve_backbone(self.backbone_name, self.opt["datapath"]), None
        elif checkpoint.is_adapter:
            folder = resolve_backbone(self.backbone_name, self.opt["datapath"])
            checkpoint.check_base(folder)
            adapter = checkpoint.folder
        else:
            folder, adapter = checkpoint.folder, None
            if is_finetune and not info:
                self.backbone_name = str(folder)
        # A checkpoint of full weights goes on as such; a base may get a new adapter.
        continues_full = checkpoint is not None and adapter is None and bool(info)
        # ParlAI seeds after it has built the agent, so a new adapter is seeded here.
        with torch.random.fork_rng(devices=[]):
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
        return TokenizerDictionary(
            self.opt, tokenizer=self.backbone.prompt.tokenizer, pad_id=self.backbone.pad_id
        )

    def build_model(self) -> Backbone:
        return self.backbone

    def build_criterion(self) -> ContrastiveLoss:
        name, margin = self.opt["contrast_loss"], self.opt["margin"]
        if name == "n-pair":
            return NPairLoss(temperature=self.opt["temperature"])
        loss = RankedMarginLoss if name == "ranked-margin" else LikelihoodMarginLoss
        return loss() if margin is None else loss(margin)

    def build_lr_scheduler(
        self, states: dict[str, Any] | None = None, hard_reset: bool = False
    ) -> None:
        """Keep the restored learning rate and step count, which ParlAI loses on resuming.

        Its schedules set the initial rate when they are made, for one step; without a schedule
        the count begins anew.
        """
        rates = [group["lr"] for group in self.optimizer.param_groups]
        super().build_lr_scheduler(states, hard_reset)
        if states and not hard_reset:
            self._number_training_updates = states["number_training_updates"]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and scheduler state; weights are saved in Hugging Face's own layout."""
        states = super().state_dict()
        states.pop("model", None)
        return states

    def save(self, path: str | None = None) -> None:
        path = path or self.opt.get("model_file")
        if not path:
            return
        info = {
            "backbone": self.backbone_name,
            "system_prompt": self.backbone.prompt.system_prompt,
            "contrast_score": self.opt["contrast_score"],
        }
        save_checkpoint(path, self.backbone, info, self.state_dict())
        self.opt.save(path + ".opt")

    def load(self, path: str) -> dict[str, Any]:
        """Training state only: ``build_dictionary`` has loaded the weights already."""
        return Checkpoint(path).training_state()

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

    def vectorize(self, obs: Message, history: Any, **kwargs: Any) -> Message:
        super().vectorize(obs, history, **kwargs)
        label_kind = "labels" if "labels" in obs else "eval_labels"
        if label_kind in obs and "text_vec" in obs and "contrast_example" not in obs:
            obs["contrast_example"] = self._example(obs, label_kind)
        return obs

    def _example(self, obs: Message, label_kind: str) -> Example:
        negatives = list(obs.get("negatives", []))
        weights = list(obs.get("negative_weights", [1.0] * len(negatives)))
        if len(weights) != len(negatives) or any(not w > 0 for w in weights):
            raise UserError(
                f"task {obs.get('id')}: negative_weights {weights} do not fit {len(negatives)} "
                "negatives; give one weight above 0 for each"
            )
        chosen = list(range(len(negatives)))
        if label_kind == "labels" and len(negatives) > self.opt["negatives"]:
            chosen = sorted(self.rng.sample(chosen, self.opt["negatives"]))
        return Example(
            context=obs["text_vec"].tolist(),
            response=obs[label_kind + "_vec"].tolist(),
            text=normalise_text(obs[label_kind + "_choice"]),
            group=obs.get("contrast_group", ""),
            rots=frozenset(normalise_text(rot) for rot in obs.get("rots", [])),
            negatives=[
                self._vectorize_text(negatives[i], truncate=self.label_truncate).tolist()
                for i in chosen
            ],
            log_weights=[log(weights[i]) * self.opt["social_weights"] for i in chosen],
        )

    def is_valid(self, obs: Message) -> bool:
        """A message without text, as ParlAI's human sends at the end of input, has no reply."""
        return super().is_valid(obs) and "text_vec" in obs

    def batchify(self, obs_batch: list[Message], sort: bool = False) -> Batch:
        batch = super().batchify(obs_batch, sort=sort)
        if batch.batchsize:
            observations = [obs_batch[i] for i in batch.valid_indices]
            batch["contexts"] = [obs["text_vec"].tolist() for obs in observations]
            batch["examples"] = [obs.get("contrast_example") for obs in observations]
        return batch

    # Loss and metrics

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16)

    def compute_loss(self, batch: Batch, return_output: bool = False) -> Any:
        """Mean token loss of the responses + contrast weight x mean contrast of the examples.

        The contrast is a mean over the examples that have a negative. Under distributed training
        both are means over the joint batch, and its responses are in-batch negatives.
        """
        started = time.perf_counter()
        examples: list[Example] = batch.examples
        joint = None
        if self.is_training and not self.opt["contrast_weight"]:
            examples = [replace(e, negatives=[], log_weights=[]) for e in examples]
        elif self.is_training:
            joint, first = distributed.gather_lists(examples)
            step = self._number_training_updates
            rngs = [Random(f"{step} {first + i}") for i in range(len(examples))]
            count = self.opt["in_batch_negatives"]
            examples = add_in_batch_negatives(examples, joint, count, rngs)
        packed = self.backbone.pack(
            [e.context for e in examples], [[e.response, *e.negatives] for e in examples]
        )
        padding = packed.padding_share
        with self._autocast():
            scores: CandidateScores = self.model(packed.to(self.backbone.device))
        contrasted = contrast_loss(
            self.criterion,
            self.opt["contrast_score"],
            scores,
            examples,
            joint,
            self.backbone.contrast_head,
        )
        contrast, mask = contrasted.loss, contrasted.mask
        mean_log_probs, has_negatives = contrasted.mean_log_probs, contrasted.has_negatives
        firsts = torch.tensor([0, *(1 + len(e.negatives) for e in examples[:-1])]).cumsum(0)
        firsts = firsts.to(mask.device)
        token_counts = scores.token_counts()[firsts]  # (B,)
        nll = -mean_log_probs[:, 0] * token_counts  # (B,)
        correct = scores.sum_per_candidate(scores.token_correct.float())[firsts]
        mean = distributed.mean_of_all if self.is_training else distributed.own_mean
        loss = mean(nll.sum(), token_counts.sum())
        if self.opt["contrast_weight"]:
            mean_contrast = mean(contrast.sum(), has_negatives.sum())
            loss = loss + self.opt["contrast_weight"] * mean_contrast

        negative_log_probs = mean_log_probs[:, 1:].detach()
        hardest = negative_log_probs.masked_fill(~mask, float("-inf"))
        hardest = (
            hardest.max(1).values if mask.size(1) else torch.full_like(contrast, float("-inf"))
        )
        positive = mean_log_probs[:, 0].detach()
        # One transfer from the device for all metrics, after the backward pass was queued.
        statistics = torch.stack(
            [
                nll.detach(),
                token_counts,
                correct,
                contrast.detach(),
                has_negatives.float(),
                mask.any(1).float(),
                (positive > hardest).float(),
                torch.where(mask.any(1), positive - hardest, 0.0),
                positive,
                (negative_log_probs * mask).sum(1),
                mask.sum(1).float(),
            ]
        )  # (statistics, B)
        useful = sum(example.tokens for example in examples)
        self.pending = [statistics, useful, padding, started]
        return (loss, scores) if return_output else loss

    def train_step(self, batch: Batch) -> None:
        super().train_step(batch)
        self._record_metrics()

    def _record_metrics(self) -> None:
        if not self.pending:
            return
        statistics, useful, padding, started = self.pending
        self.pending = []
        nll, tokens, correct, contrast, has_any, has_hard, right, margin, pos, neg, count = (
            statistics.tolist()
        )
        for name, value, weight in (
            ("loss", nll, tokens),
            ("token_acc", correct, tokens),
            ("contrast_loss", contrast, has_any),
            ("contrast_acc", [r * h for r, h in zip(right, has_hard, strict=True)], has_hard),
            ("margin", margin, has_hard),
            ("logp_pos", pos, [1.0] * len(pos)),
            ("logp_neg", neg, count),
        ):
            self.record_local_metric(name, AverageMetric.many(value, weight))
        self.record_local_metric("ppl", PPLMetric.many(nll, tokens))
        self.global_metrics.add("padding", GlobalAverageMetric(padding))
        self.global_metrics.add("useful_tokens", GlobalAverageMetric(useful))
        self.global_metrics.add(
            "useful_tps", GlobalAverageMetric(useful, time.perf_counter() - started)
        )
        if self.is_training:
            self._watch_drift(sum(pos) / len(pos))

    def _watch_drift(self, positive_log_prob: float) -> None:
        """Warn once where training pushes the fitting replies down with the others."""
        self.drift.append(positive_log_prob)
        if len(self.drift) < 2 * DRIFT_STEPS:
            return
        began = sum(self.drift[:DRIFT_STEPS]) / DRIFT_STEPS
        now = sum(self.drift[-DRIFT_STEPS:]) / DRIFT_STEPS
        del self.drift[DRIFT_STEPS:-DRIFT_STEPS]
        if now < began and not self.opt.get("drift_warned"):
            self.opt["drift_warned"] = True
            logging.warning(
                f"mean log p of the fitting replies fell from {began:.3f} to {now:.3f}: the "
                "contrast pushes them down too; lower --contrast-weight or --learningrate"
            )

    def eval_step(self, batch: Batch) -> Any:
        with self._autocast():
            output = super().eval_step(batch)
        self._record_metrics()
        return output

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

    def _decoding(self, beam_size: int) -> dict[str, Any]:
        inference = self.opt["inference"]
        decoding: dict[str, Any] = {"min_new_tokens": self.beam_min_length}
        if self.beam_block_ngram > 0:
            decoding["no_repeat_ngram_size"] = self.beam_block_ngram
        sampling = {"do_sample": True, "temperature": self.opt["sampling_temperature"]}
        if inference == "greedy":
            return decoding | {"do_sample": False, "num_beams": 1}
        if inference == "beam":
            penalty = self.opt["beam_length_penalty"]
            return decoding | {
                "do_sample": False,
                "num_beams": beam_size,
                "length_penalty": penalty,
            }
        if inference == "topk":
            return decoding | sampling | {"top_k": self.opt["topk"]}
        if inference == "nucleus":
            return decoding | sampling | {"top_k": 0, "top_p": self.opt["topp"]}
        raise UserError(f"--inference {inference}: use greedy, beam, topk or nucleus")

    def _generate(
        self,
        batch: Batch,
        beam_size: int,
        max_ts: int,
        prefix_tokens: torch.Tensor | None = None,
    ) -> tuple[list[tuple[torch.Tensor, None, None]], list]:
        if prefix_tokens is not None:
            raise UserError("prefix tokens are not supported by -m prosocial")
        replies = generate_replies(
            self.backbone,
            batch.contexts,
            max_ts,
            rerank=self.opt["rerank"],
            alpha=self.opt["rerank_alpha"],
            **self._decoding(beam_size),
        )
        return [(torch.tensor(reply), None, None) for reply in replies], []

    def _v2t(self, vec: torch.Tensor) -> str:
        return self.backbone.prompt.decode(self.backbone.reply_ids(vec))

    def rank_eval_label_candidates(
        self, batch: Batch, batchsize: int
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Order each example's candidates by mean log p, best first."""
        choices, ordered_scores = [], []
        for context, vectors, texts in zip(
            batch.contexts, batch.candidate_vecs, batch.candidates, strict=True
        ):
            packed = self.backbone.pack([context], [[v.tolist() for v in vectors]])
            scores = self.backbone(packed.to(self.backbone.device)).mean_log_probs()
            values, order = scores.sort(descending=True)
            choices.append([texts[i] for i in order])
            ordered_scores.append(values.tolist())
        return choices, ordered_scores


def resolve_backbone(name: str, datapath: str) -> Path:
    """Folder of ``zoo:prosocial/<entry>`` (made on first use), of a path or of a hub name."""
    if not name.startswith("zoo:"):
        return find_backbone(name)
    entry = name.removeprefix("zoo:").replace("/", ".")
    try:
        module = import_module(f"parlai.zoo.{entry}")
    except ModuleNotFoundError:
        raise UserError(
            f"--backbone {name}: no such zoo entry; use {options.DEFAULT_BACKBONE}"
        ) from None
    return Path(module.download(datapath))
