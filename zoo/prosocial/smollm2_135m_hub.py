"""``zoo:prosocial/smollm2_135m_hub``: the full-precision original, from the Hugging Face hub."""

from pathlib import Path

from parlai.zoo.prosocial.build import install

from parlai_prosocial.models.smollm2 import ensure_hub_base


def download(datapath: str) -> Path:
    """Install the base under ``datapath``; return its Hugging Face folder."""
    return install(ensure_hub_base, datapath)
