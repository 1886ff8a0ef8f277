"""Whether the Hugging Face hub can be reached, found out in seconds."""

import threading
import urllib.error
import urllib.request

HUB_PATIENCE = 8.0
"""Seconds until a server that does not answer counts as unreachable."""


def answers(url: str, patience: float = HUB_PATIENCE) -> bool:
    """Whether the server at ``url`` answers, whatever it says, within ``patience`` seconds.

    In a thread, because neither looking up a name nor trying all of its addresses has a time limit
    of its own; the hub's client would retry for minutes.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=patience).close()
        except urllib.error.HTTPError:
            pass  # an answer
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answered.is_set()
