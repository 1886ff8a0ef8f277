"""A GGUF file, as llama.cpp runs it, made into a Hugging Face folder once."""

import os
import shutil
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import Say, file_sha256, writing
from parlai_prosocial.util.writer import made_by_one


def ensure_converted(file: Path, datapath: str | Path, say: Say) -> Path:
    """Return the folder with a file's dequantised weights, tokenizer and chat template.

    The first time takes up to a minute for a billion parameters and four bytes of disk for each;
    after that the file is hashed, and its folder found.

    Args:
        file: of any architecture that transformers reads by ``gguf_file=``.
        datapath: ParlAI's; the folder is made in it, named by the file's hash.
        say: called with one line at each longer step.

    Raises:
        UserError: transformers cannot read it.
    """
    folder = Path(datapath) / "models" / "prosocial_gguf" / file_sha256(file)[:16]
    if folder.is_dir():
        return folder
    with made_by_one(folder, say):
        if not folder.is_dir():
            say(f"{file}: converting into {folder}")
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            with writing(folder, part):
                convert(file, part)
                os.replace(part, folder)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Write a file's model and tokenizer into a folder; see :func:`ensure_converted`."""
    from importlib import metadata

    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    if int(metadata.version("transformers").split(".")[0]) < 5:
        # 4.x makes another tokenizer of the file's vocabulary, without an error.
        raise UserError(f"{file}: GGUF files need transformers 5; pip install 'transformers>=5'")
    try:
        config = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
        if config.is_encoder_decoder:
            raise UserError(f"{file}: holds an encoder-decoder; give its Hugging Face folder")
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
        model = dequantised(file, AutoModelForCausalLM)
    except ImportError as error:
        raise UserError(f"{file}: {error}; `prosocial setup` installs what is missing") from None
    except UserError:
        raise
    except Exception as error:  # of a file that is cut short almost anything
        first_line = str(error).strip().split("\n")[0]
        raise UserError(f"{file}: transformers cannot read it ({first_line})") from None
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def dequantised(file: Path, auto: Any) -> Any:
    """The model of a GGUF file in float32, as one that was never quantised."""
    model = auto.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    # transformers 5 remembers the quantisation, and then refuses to save.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    return model
