"""What all metrics share: state that is sums and counts, so that it adds up over ranks."""

from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass
class Metric:
    """A measure that is fed in parts: ``update`` adds some rows, ``compute`` gives the value.

    A subclass is a dataclass. What its constructor takes is its definition; its other fields
    (``init=False``) are its state, which must add up.
    """

    def merge(self, other: Self) -> None:
        """Add what another one of the same definition has seen, e.g. in another process.

        Raises:
            ValueError: the definitions differ.
        """
        for field in fields(self):
            own: Any = getattr(self, field.name)
            others: Any = getattr(other, field.name)
            if not field.init:
                setattr(self, field.name, own + others)
            elif own != others:
                raise ValueError(f"{field.name} is {own!r} here and {others!r} there")
