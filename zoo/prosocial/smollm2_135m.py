"""``zoo:prosocial/smollm2_135m``: the default base, from the package index."""

from pathlib import Path

from parlai.zoo.prosocial.build import install

from parlai_prosocial.models.smollm2 import ensure_base


def download(datapath: str) -> Path:
    """Install the base under ``datapath``; return its Hugging Face folder."""
    return install(ensure_base, datapath)
