"""Where ParlAI looks for ``-m prosocial/transformer``."""

from parlai_prosocial.agents.transformer import TransformerAgent

__all__ = ["TransformerAgent"]
