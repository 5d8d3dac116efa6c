"""Clients that read their answers on threads of their own, and know when each piece came."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from paceline.cli.api import Api
from paceline.cli.run import Reply
from paceline.types.errors import PacelineError

COMPLETIONS = "/v1/completions"
SOON_S = 0.2
"""What is on its way to a client comes within this."""


class Listener:
    """One completion, streamed. Starts at once."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self.reply = Reply()
        self.error = ""
        self.heard_at: list[float] = []
        """When each piece of the answer came, by the monotonic clock."""
        self._api = Api(url)
        self._body = body | {"stream": True}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    @property
    def text(self) -> str:
        return "".join(self.reply.text.copy())

    def wait(self, timeout_s: float) -> None:
        """Past it, that it never ended is its error."""
        self._thread.join(timeout_s)
        if self.goes_on:
            self.error = f"no end within {timeout_s:.0f} s"

    def pause_at(self, moment: float) -> float | None:
        """The longest wait of those that went on at that moment, or began when what was on its way
        then had come; None if it was not in the midst of the answer."""
        heard = self.heard_at
        if not heard or not heard[0] <= moment < heard[-1]:
            return None
        return max(b - a for a, b in pairwise(heard) if a <= moment + SOON_S and moment < b)

    def _listen(self) -> None:
        try:
            for event in self._api.events(COMPLETIONS, self._body):
                if self.reply.take(event) or event.get("choices"):
                    self.heard_at.append(time.monotonic())
        except PacelineError as error:
            self.error = str(error)


def pauses(listeners: Iterable[Listener], moments: Iterable[float]) -> list[float]:
    """Of every listener around every moment."""
    told = list(moments)
    found = (listener.pause_at(moment) for listener in listeners for moment in told)
    return sorted(pause for pause in found if pause is not None)
