"""Flags of ParlAI's generator agent that ``-m prosocial`` does not keep: they are refused by name.

Everything else of TorchGeneratorAgent and TorchAgent acts as ParlAI says; a test goes through
all of them.
"""

from typing import Any

from parlai.core.opt import Opt

from parlai_prosocial.errors import UserError

REFUSED: dict[str, tuple[Any, str]] = {
    "beam_block_list_filename": (None, "block phrases with ParlAI's own agents, or judge replies"),
    "beam_context_block_ngram": (-1, "use --beam-block-ngram, which looks at the reply alone"),
    "beam_block_full_context": (True, "it belongs to --beam-context-block-ngram"),
    "beam_delay": (30, "it belongs to delayed beams; use --inference beam, topk or nucleus"),
    "lambda_decay": (0.9, "it belongs to factual_nucleus; use --inference nucleus"),
    "omega_bound": (0.3, "it belongs to factual_nucleus; use --inference nucleus"),
    "p_reset": (True, "it belongs to factual_nucleus; use --inference nucleus"),
    "compute_tokenized_bleu": (False, "use --metrics bleu"),
    "gpu_beam_blocking": (False, "Hugging Face's generate runs here; leave it out"),
    "verbose_topk": (-1, "--verbose true shows the losses of the label's tokens"),
    "embedding_type": ("random", "embeddings are the backbone's"),
    "embedding_projection": ("random", "embeddings are the backbone's"),
    "fp16_impl": ("safe", "use --precision bf16"),
    "force_fp16_tokens": (False, "use --precision bf16"),
    "truncate": (-1, "use --text-truncate and --label-truncate"),
    "history_reversed": (False, "the last line is the user's"),
    "delimiter": ("\n", "a line is a turn"),
    "history_add_global_end_token": (None, "the chat template ends the turns"),
    "special_tok_lst": (None, "tokens are the backbone's"),
}
"""Flag -> its default, which is the one value that is taken, and what to do instead."""


def refuse(opt: Opt) -> None:
    """Raise :class:`UserError` for the first flag that would not act.

    Files of options may lack any of them.
    """
    for name, (default, mend) in REFUSED.items():
        value = opt.get(name)
        if value is not None and value != default:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {value!r}: is not kept by -m prosocial; {mend}")
    if opt["beam_size"] != 1 and opt["inference"] != "beam":
        raise UserError(
            f"--beam-size {opt['beam_size']}: is of --inference beam, not {opt['inference']}; "
            "give --beam-size 1, or --rerank to choose among sampled replies"
        )
