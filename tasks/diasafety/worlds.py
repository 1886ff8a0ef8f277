"""As :mod:`parlai.tasks.prosocial.worlds`."""

from parlai.tasks.prosocial.worlds import InteractiveWorld, SelfChatWorld, __getattr__

__all__ = ["InteractiveWorld", "SelfChatWorld", "__getattr__"]
