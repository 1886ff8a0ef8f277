"""parlai-prosocial: socially aware contrastive learning for safer dialogue, as a ParlAI plugin."""

__version__ = "0.1.0"
