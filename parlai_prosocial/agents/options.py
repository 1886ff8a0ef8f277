"""The agent's command-line flags, and what is refused among their values."""

from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import is_distributed

from parlai_prosocial.compat.settings import add_flags
from parlai_prosocial.errors import UserError
from parlai_prosocial.losses.dpo import DPOLoss
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.losses.simpo import SimPOLoss
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT

DEFAULT_BACKBONE = "zoo:prosocial/smollm2_135m"
CONTRAST_LOSSES = {
    "n-pair": NPairLoss,
    "ranked-margin": RankedMarginLoss,
    "likelihood-margin": LikelihoodMarginLoss,
    "dpo": DPOLoss,
    "simpo": SimPOLoss,
}
OF_LIKELIHOODS = ("likelihood-margin", "dpo", "simpo")
LOSSES_WITH = {
    "margin": ("ranked-margin", "likelihood-margin", "simpo"),
    "beta": ("dpo", "simpo"),
}
"""Settings that only some losses have."""
CONTRAST_SCORES = ("likelihood", "cosine", "likelihood+cosine")


def add_contrast_arguments(
    parser: ParlaiParser, partial_opt: Opt | None, temperature_flag: str
) -> None:
    """The flags that every :class:`~.contrastive.ContrastiveAgent` has."""
    opt = partial_opt or {}
    if "aggregate_micro" in opt and DatatypeHelper.is_training(opt["datatype"]):
        # Training logs of several tasks weigh by examples, as the loss does. Evaluation keeps
        # ParlAI's mean over tasks.
        parser.set_defaults(aggregate_micro=True)
    group = parser.add_argument_group("Contrast")
    group.add_argument(
        "--contrast-weight",
        type=float,
        default=1.0,
        help="Weight (lambda) of the contrastive loss beside the likelihood loss; 0 is MLE only.",
    )
    group.add_argument(
        "--contrast-loss",
        choices=tuple(CONTRAST_LOSSES),
        default="n-pair",
        help="n-pair; ranked-margin (CoNT); likelihood-margin (Click, on summed log p); dpo (on "
        "summed log p, relative to --contrast-reference init); simpo.",
    )
    group.add_argument(
        temperature_flag,
        type=float,
        default=0.5,
        help="Temperature (tau) of the n-pair loss. For sampling: --sampling-temperature.",
    )
    group.add_argument(
        "--margin",
        type=float,
        default=None,
        help="Margin of ranked-margin (default 0.01), likelihood-margin (10 nats) and simpo "
        "(its gamma, 0.5).",
    )
    group.add_argument(
        "--beta",
        type=float,
        default=None,
        help="Beta of dpo (default 0.1) and simpo (2).",
    )
    group.add_argument(
        "--negatives",
        type=int,
        default=4,
        help="Most hard negatives of an example in a training step; sampled where it has more.",
    )
    group.add_argument(
        "--in-batch-negatives",
        type=int,
        default=0,
        help="Replies of other examples in the batch to add as likelihood negatives. Under "
        "cosine all of them serve as they are, at no cost.",
    )
    group.add_argument(
        "--social-weights",
        type="bool",
        default=True,
        help="Weigh negatives by how bad people judged them (False: all alike).",
    )
    group.add_argument(
        "--permute-weights",
        type="bool",
        default=False,
        help="A control: shuffle the social weights over the negatives of each batch.",
    )
    add_flags(parser)


def add_arguments(parser: ParlaiParser, partial_opt: Opt | None) -> None:
    group = parser.add_argument_group("Prosocial")
    group.add_argument(
        "--backbone",
        type=str,
        default=DEFAULT_BACKBONE,
        help="Hugging Face causal or encoder-decoder model: a folder, a hub name, or zoo:...",
    )
    group.add_argument(
        "--lora-rank",
        type=int,
        default=16,
        help="Rank of the LoRA adapter on all linear layers; 0 trains all weights.",
    )
    group.add_argument(
        "--contrast-score",
        choices=CONTRAST_SCORES,
        default="likelihood",
        help="What is contrasted: mean log p(response | context), the cosine of projected "
        "states, or both as two terms.",
    )
    group.add_argument(
        "--contrast-reference",
        choices=("none", "init"),
        default="none",
        help="init: contrast log p relative to that of the model that the run starts from, which "
        "cancels style and length. Data may carry it (reference_log_prob); else it is computed, "
        "once for each reply.",
    )
    group.add_argument(
        "--casual-kl",
        type=float,
        default=0.0,
        help="Weight of the KL divergence from the model that the run starts from, on the replies "
        "to turns labelled __casual__. Needs --lora-rank. 0: off.",
    )
    group.add_argument(
        "--system-prompt",
        type=str,
        default=DEFAULT_SYSTEM_PROMPT,
        help="System turn for chat templates; stored in the checkpoint.",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 on a GPU that has it and on a CPU where it is faster, else fp32.",
    )
    group.add_argument(
        "--sampling-temperature",
        type=float,
        default=1.0,
        help="Temperature of topk and nucleus decoding.",
    )
    group.add_argument(
        "--rerank",
        type=int,
        default=0,
        help="Sample so many replies and answer with the best by contrast head and likelihood. "
        "Needs a model trained with a cosine score, and topk or nucleus decoding. 0: off.",
    )
    group.add_argument(
        "--rerank-alpha",
        type=float,
        default=0.5,
        help="Weight of the contrast head in --rerank, from 0 to 1; the rest is mean log p.",
    )
    add_contrast_arguments(parser, partial_opt, "--temperature")
    parser.set_defaults(
        optimizer="adamw",
        learningrate=2e-4,
        gradient_clip=1.0,
        text_truncate=256,
        label_truncate=128,
        history_size=-1,
    )


def check(opt: Opt) -> None:
    """Raise :class:`UserError` for a flag's value of ``-m prosocial`` that makes no sense."""
    check_contrast(opt, "temperature")
    loss = opt["contrast_loss"]
    if loss in OF_LIKELIHOODS and opt["contrast_score"] != "likelihood":
        raise UserError(
            f"--contrast-score {opt['contrast_score']}: {loss} compares likelihoods "
            "only; use --contrast-score likelihood, or another --contrast-loss"
        )
    generation_settings(opt)  # an --inference that is not kept is named now, not after training
    if trains(opt):
        _check_training(opt)
    if not opt["sampling_temperature"] > 0:
        raise UserError(
            f"--sampling-temperature {opt['sampling_temperature']}: must be above 0; "
            "for the most probable reply use --inference greedy"
        )
    if opt["rerank"] and opt["inference"] not in ("topk", "nucleus"):
        raise UserError(
            f"--inference {opt['inference']}: gives --rerank nothing to choose from; "
            "use nucleus or topk"
        )
    if not opt["lora_rank"] >= 0:
        raise UserError(f"--lora-rank {opt['lora_rank']}: must not be negative; 0 switches it off")


def trains(opt: Opt) -> bool:
    """Whether an agent of these options trains."""
    # `parlai interactive` leaves the datatype at its default, train.
    is_training = DatatypeHelper.is_training(opt.get("datatype") or "")
    return is_training and not opt.get("interactive_mode")


def measures(opt: Opt) -> bool:
    """Whether an agent of these options is opened to be measured, as by ``parlai eval_model``."""
    return not trains(opt) and not opt.get("interactive_mode")


def _check_training(opt: Opt) -> None:
    """Flags that would not act in training; a checkpoint that has such still opens."""
    backend = opt.get("ddp_backend")
    if is_distributed() and backend in ("zero2", "zero3"):
        raise UserError(
            f"--ddp-backend {backend}: ParlAI shards no model of Hugging Face's in parts, so each "
            "GPU would still gather all of it, and what it makes of the weights takes no adapter "
            "beside frozen ones; use --ddp-backend ddp with --lora-rank (docs/scale.md)"
        )
    if opt["contrast_reference"] == "init" and opt["contrast_score"] == "cosine":
        raise UserError(
            "--contrast-reference init: is of the likelihood, which --contrast-score cosine does "
            "not contrast; use --contrast-score likelihood or likelihood+cosine"
        )
    if opt["in_batch_negatives"] and opt["contrast_score"] == "cosine":
        raise UserError(
            f"--in-batch-negatives {opt['in_batch_negatives']}: are of the likelihood; under "
            "--contrast-score cosine all replies of the batch serve already, so leave it at 0"
        )
    if not opt["casual_kl"] >= 0:
        raise UserError(f"--casual-kl {opt['casual_kl']}: must not be negative; 0 switches it off")
    for name, losses in LOSSES_WITH.items():
        if opt[name] is not None and opt["contrast_loss"] not in losses:
            raise UserError(
                f"--{name} {opt[name]}: is of {', '.join(losses)}; leave it out or give another "
                "--contrast-loss"
            )
    if opt["contrast_loss"] == "simpo" and opt["contrast_reference"] == "init":
        raise UserError(
            "--contrast-loss simpo: has no reference; leave --contrast-reference at none"
        )
    if opt["permute_weights"] and not opt["social_weights"]:
        raise UserError(
            "--permute-weights true: there are no weights to permute with --social-weights false"
        )


def check_contrast(opt: Opt, temperature: str) -> None:
    """Raise :class:`UserError` for a value of the contrast's flags that makes no sense."""
    if not opt[temperature] > 0:
        flag = "--" + temperature.replace("_", "-")
        raise UserError(f"{flag} {opt[temperature]}: must be above 0, e.g. 0.5")
    if opt["margin"] is not None and not opt["margin"] >= 0:
        raise UserError(f"--margin {opt['margin']}: must not be negative")
    beta = opt.get("beta")  # which models made before it was there lack
    if beta is not None and not beta > 0:
        raise UserError(f"--beta {beta}: must be above 0, e.g. 0.1")
    if opt["contrast_loss"] == "dpo" and opt.get("contrast_reference") != "init":
        raise UserError(
            "--contrast-loss dpo: is relative to a reference; use -m prosocial with "
            "--contrast-reference init"
        )
    for name in ("contrast_weight", "negatives", "in_batch_negatives"):
        if not opt[name] >= 0:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {opt[name]}: must not be negative; 0 switches it off")
