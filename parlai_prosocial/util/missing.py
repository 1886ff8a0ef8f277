"""Why answers are missing: each reason is said once, and counted."""

import logging
from collections import Counter
from collections.abc import Iterable

logger = logging.getLogger(__name__)

MOST_REASONS = 20
OTHER = "other reasons"


class Missing(Counter[str]):
    """Reason -> how many answers are missing for it.

    A server can put a number of its own into every reason, so that after :data:`MOST_REASONS` new
    ones are counted together.
    """

    def note(self, who: str, reasons: Iterable[str]) -> None:
        """Count reasons, and warn of those that are new.

        Args:
            who: the model or address that gave no answer.
            reasons: one for each answer that is missing.
        """
        for reason in reasons:
            known = reason if reason in self or len(self) < MOST_REASONS else OTHER
            if known not in self:
                logger.warning("%s: an answer is missing: %s", who, known)
            self[known] += 1
