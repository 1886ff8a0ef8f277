"""Random numbers that belong to a reply and not to the batch that it is sampled in."""

import hashlib


def own_seed(seed: int, context: str, reply: int) -> int:
    """The seed of one reply to one context, from 0 below 2**56."""
    digest = hashlib.sha256(f"{seed}\n{reply}\n{context}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
