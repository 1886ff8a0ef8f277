"""Where ParlAI looks for ``-m prosocial/classifier``."""

from parlai_prosocial.agents.classifier import ClassifierAgent

__all__ = ["ClassifierAgent"]
