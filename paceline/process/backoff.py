"""When to start again what has ended: at once the first time, then ever later, never never."""

from __future__ import annotations

import msgspec

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
HEALTHY_AFTER_S = 10.0


class Backoff(msgspec.Struct, frozen=True):
    """How often a thing has ended without having been healthy in between."""

    ends: int = 0

    def after(self, lived_s: float) -> tuple[Backoff, float]:
        """It ended after `lived_s` seconds: the new count, and the seconds to wait before the
        next start. Ten seconds of life are health and reset the count."""
        ends = 1 if lived_s >= HEALTHY_AFTER_S else self.ends + 1
        return Backoff(ends), _delay(ends)


def _delay(ends: int) -> float:
    if ends <= 1:
        return 0.0
    # The exponent is capped only so that the power stays small.
    return min(FIRST_DELAY_S * 2.0 ** min(ends - 2, 16), LONGEST_DELAY_S)
