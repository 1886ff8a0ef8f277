"""``-m prosocial/classifier``: how safe is the last line of a dialogue, given the lines before?

Flags, metrics, and what is printed are those of ParlAI's TorchClassifierAgent, so that whatever
reads ``transformer/classifier`` reads this agent too. The model and its checkpoints are
:class:`parlai_prosocial.models.classifier.SafetyClassifier`'s.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.teachers import create_task_agent_from_taskname
from parlai.core.torch_agent import Batch, Output
from parlai.core.torch_classifier_agent import TorchClassifierAgent
from parlai.utils import logging
from parlai.utils.distributed import is_distributed

from parlai_prosocial.agents.dictionary import TokenizerDictionary
from parlai_prosocial.agents.glue import HuggingFaceGlue, refuse_ignored, refuse_torchscript
from parlai_prosocial.agents.options import measures, trains
from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.settings import add_flags
from parlai_prosocial.data.example import BINARY_LABELS, SAFETY_LABELS
from parlai_prosocial.errors import UserError, show_user_errors_as_one_line
from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier
from parlai_prosocial.models.classifier_input import split_last_line
from parlai_prosocial.util.environment import precision_name
from parlai_prosocial.util.files import text_lines
from parlai_prosocial.zoo.bases import minilm
from parlai_prosocial.zoo.resolve import classifier_base, find_base, named
from parlai_prosocial.zoo.sealed import check_measurable

compat.apply()
show_user_errors_as_one_line()

SHORTEST_INPUT = 16
"""Tokens below which a pair with its special tokens makes no sense."""


class ClassifierAgent(HuggingFaceGlue, TorchClassifierAgent):
    """Labels the last line of ``text`` in the context of the lines before.

    The classes are the checkpoint's, else ``--classes``, else ``__ok__`` and ``__notok__`` with
    ``--binary true``, else the task's ``label_candidates``, else ProsocialDialog's five.
    """

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        add_flags(parser)
        group = parser.add_argument_group("Prosocial classifier")
        group.add_argument(
            "--backbone",
            type=str,
            default=minilm.PACKAGE,
            help="Hugging Face encoder or causal model: a folder, a hub name, zoo:... or the "
            "default, all-MiniLM-L6-v2 from the package index.",
        )
        group.add_argument(
            "--lora-rank",
            type=int,
            default=0,
            help="Rank of a LoRA adapter on all linear layers; 0 trains all weights.",
        )
        group.add_argument(
            "--precision",
            choices=("auto", "fp32", "bf16"),
            default="fp32",
            help="auto: bf16 on a GPU that has it and on a CPU where it is faster, else fp32. The "
            "head computes in fp32.",
        )
        group.add_argument(
            "--binary",
            type="bool",
            default=False,
            help="Classify into __ok__ and __notok__, as ParlAI's safety tasks do.",
        )
        parser.set_defaults(
            # ParlAI stops at a list in --init-model's options where there is None now.
            classes=[],
            class_weights=[],
            optimizer="adamw",
            learningrate=5e-5,
            gradient_clip=1.0,
            text_truncate=128,
            history_size=-1,
        )
        return parser

    def __init__(self, opt: Opt, shared: Any = None):
        self.classifier: SafetyClassifier
        if shared is None:
            self.fill_defaults(opt)
            refuse_torchscript(opt)
            if opt.get("fp16"):
                logging.info("--fp16: this agent uses bf16 instead, which needs no loss scaling")
                opt["fp16"], opt["precision"] = False, "bf16"
            path, self.is_finetune = self._get_init_model(opt, None)
            with named("--init-model" if self.is_finetune else "-mf", path or ""):
                self.checkpoint = ClassifierCheckpoint(path) if path else None
            opt["classes"] = self._choose_classes(opt)
            opt["classes_from_file"] = None
            _check(opt, self.checkpoint)
            if self.checkpoint is not None:
                facts = {"backbone": self.checkpoint.info["backbone"]}
                if trains(opt):
                    facts["lora_rank"] = self.checkpoint.lora_rank
                refuse_ignored(opt, self.checkpoint.path, facts)
            opt["class_weights"] = opt["class_weights"] or None
        else:
            self.classifier = shared["classifier"]
            self.backbone_name = shared["backbone_name"]
            self.bf16 = shared["bf16"]
        super().__init__(opt, shared)

    def share(self) -> dict[str, Any]:
        shared = super().share()
        shared["classifier"] = self.classifier
        shared["backbone_name"] = self.backbone_name
        shared["bf16"] = self.bf16
        return shared

    # Building, saving, loading

    def _choose_classes(self, opt: Opt) -> list[str]:
        given = opt.get("classes")
        if opt.get("classes_from_file"):
            file, mend = Path(opt["classes_from_file"]), "give a file of one class a line"
            given = [line.strip() for line in text_lines(file, mend)]
        asked = given or (BINARY_LABELS if opt.get("binary") else None)
        if self.checkpoint is None:
            return list(asked or _task_labels(opt) or SAFETY_LABELS)
        trained: list[str] = self.checkpoint.info["labels"]
        if self.is_finetune:
            return list(asked or _task_labels(opt) or trained)
        if asked and list(asked) != trained:
            raise UserError(
                f"-mf {opt['model_file']}: its classes are {' '.join(trained)}, not "
                f"{' '.join(asked)}; leave --classes and --binary out, or begin a new model "
                "from it with --init-model"
            )
        return trained

    def build_dictionary(self) -> TokenizerDictionary:
        """Load the model: ParlAI asks for the dictionary first, and the tokenizer is in it."""
        checkpoint, opt = self.checkpoint, self.opt
        trainable = self._should_initialize_optimizer()
        self.backbone_name = checkpoint.info["backbone"] if checkpoint else opt["backbone"]
        # ParlAI seeds after it has built the agent, so a new head or adapter is seeded here.
        flag, name = "--backbone", self.backbone_name
        if checkpoint is not None:
            flag, name = "--init-model" if self.is_finetune else "-mf", checkpoint.path
        with torch.random.fork_rng(devices=[]), named(flag, name):
            torch.manual_seed(opt.get("seed") or 0)
            if checkpoint is None:
                self.classifier = SafetyClassifier(
                    find_base(name, flag, opt["datapath"]),
                    opt["classes"],
                    opt["text_truncate"],
                    lora_rank=opt["lora_rank"],
                    trainable=trainable,
                )
            else:
                self.classifier = checkpoint.classifier(
                    classifier_base(checkpoint, f"{flag} {name}: its base", opt["datapath"]),
                    opt["classes"],
                    opt["text_truncate"],
                    trainable=trainable,
                )
                if measures(opt):
                    check_measurable(checkpoint, opt["datapath"])
        tokenizer = self.classifier.tokenizer
        dictionary = TokenizerDictionary(opt, tokenizer=tokenizer, pad_id=self.classifier.pad_id)
        # An encoder's tokenizer has these instead of tokens that begin and end a text.
        dictionary.start_token = dictionary.start_token or tokenizer.cls_token
        dictionary.end_token = dictionary.end_token or tokenizer.sep_token
        return dictionary

    def build_model(self) -> SafetyClassifier:
        goes_on = self._should_initialize_optimizer() and not self.is_finetune
        self.bf16 = self.computes_in_bf16(self.checkpoint if goes_on else None)
        return self.classifier

    def save(self, path: str | None = None) -> None:
        path = path or self.opt.get("model_file")
        if path:
            precision = precision_name(self.bf16)
            self.classifier.save(path, self.backbone_name, self.state_dict(), precision)
            self.opt.save(path + ".opt")

    def load(self, path: str) -> dict[str, Any]:
        """Training state only: ``build_dictionary`` has loaded the weights already."""
        return ClassifierCheckpoint(path).training_state()

    # From messages to logits

    def _set_text_vec(self, obs: Message, history: Any, truncate: int | None) -> Message:
        if "text" in obs and "text_vec" not in obs:
            obs["full_text"] = history.get_history_str() or ""
            obs["encoded"] = self.classifier.encode(*split_last_line(obs["full_text"]))
            obs["text_vec"] = torch.tensor(obs["encoded"].ids)
        return obs

    def is_valid(self, obs: Message) -> bool:
        """A message without text, as ParlAI's human sends at the end of input, has no label."""
        return super().is_valid(obs) and "text_vec" in obs

    def batchify(self, obs_batch: list[Message], sort: bool = False) -> Batch:
        batch = super().batchify(obs_batch, sort=sort)
        if batch.batchsize:
            encoded = [obs_batch[i]["encoded"] for i in batch.valid_indices]
            batch["inputs"] = self.classifier.pack(encoded)
        return batch

    def score(self, batch: Batch) -> torch.Tensor:
        """(B, classes) logits, calibrated except in training."""
        inputs = {k: v.to(self.classifier.device) for k, v in batch.inputs.items()}
        with torch.autocast(self.classifier.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.model(**inputs)
        if not self.is_training and not logits.isfinite().all():
            # The class of such a row would be an accident, and ParlAI's filter would trust it.
            raise UserError("-m prosocial/classifier: its scores are not finite; train it again")
        return logits if self.is_training else logits / self.classifier.temperature

    def _get_labels(self, batch: Batch) -> torch.Tensor:
        if unknown := set(batch.labels) - self.class_dict.keys():
            raise UserError(
                f"label {min(unknown)!r} is not among the classes {' '.join(self.class_list)}; "
                "give --classes, or another task"
            )
        return super()._get_labels(batch)

    def train_step(self, batch: Batch) -> Output:
        """ParlAI's own, but with ``--update-freq``, whose gradients it throws away."""
        if batch.text_vec is None:
            return Output()
        self.classifier.temperature = 1.0  # it belongs to the weights of before
        self.model.train()
        self.zero_grad()
        scores = self.score(batch)
        loss = self.criterion(scores, self._get_labels(batch))
        self.record_local_metric("loss", AverageMetric.many(loss.tolist()))
        self.backward(loss.mean())
        self.update_params()
        predictions = [self.class_list[i] for i in scores.argmax(1).tolist()]
        self._update_confusion_matrix(batch, predictions)
        return Output(predictions)


def _task_labels(opt: Opt) -> list[str] | None:
    """The ``label_candidates`` of the task's first example, where it has them."""
    if opt.get("task") in (None, "interactive"):
        return None
    teacher = create_task_agent_from_taskname(copy.deepcopy(opt))[0]
    candidates = teacher.act().get("label_candidates")
    return list(candidates) if candidates else None


def _check(opt: Opt, checkpoint: ClassifierCheckpoint | None) -> None:
    classes, weights = opt["classes"], opt.get("class_weights")
    if checkpoint is None and not trains(opt):
        raise UserError("-m prosocial/classifier: give a trained classifier's file by -mf")
    if len(set(classes)) < max(2, len(classes)):
        raise UserError(f"--classes {' '.join(classes)}: give at least two, each once")
    if weights and (len(weights) != len(classes) or min(weights) < 0):
        raise UserError(
            f"--class-weights {' '.join(map(str, weights))}: give one weight, 0 or above, for "
            f"each of {' '.join(classes)}"
        )
    if opt.get("ref_class") not in (None, classes[0]):
        raise UserError(f"--ref-class {opt['ref_class']}: name it first in --classes instead")
    if opt["lora_rank"] < 0:
        raise UserError(f"--lora-rank {opt['lora_rank']}: must not be negative; 0 is no adapter")
    if opt["text_truncate"] < SHORTEST_INPUT:
        raise UserError(
            f"--text-truncate {opt['text_truncate']}: give {SHORTEST_INPUT} tokens or more"
        )
    if opt["binary"] and list(classes) != BINARY_LABELS:
        raise UserError(
            f"--binary true: does not act beside --classes {' '.join(classes)}; give one of them"
        )
    if opt.get("update_classifier_head_only"):
        raise UserError("--update-classifier-head-only: use --lora-rank to train fewer weights")
    if is_distributed() and trains(opt):
        raise UserError("-m prosocial/classifier trains in one process: use parlai train_model")
