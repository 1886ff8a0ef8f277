"""Where ParlAI looks for ``-m prosocial``; the agent lives in ``parlai_prosocial.agents``."""

from parlai_prosocial.agents.prosocial import ProsocialAgent

__all__ = ["ProsocialAgent"]
