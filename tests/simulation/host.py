"""A machine, as far as time on it goes: it may crawl, stand still, and be gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.clock import Clock


class Host:
    """Everything that runs on one machine plans through it. What was planned before it went down
    never happens; what falls due while it is paused happens when it goes on."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock = clock
        self.name = name
        self.up = True
        self.paused = False
        self.slowness = 1.0
        self._life = 0
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    @property
    def runs(self) -> bool:
        return self.up and not self.paused

    def after(self, seconds: float, what: Callable[..., object], *args: Any) -> None:
        """Work of so many seconds, and then `what`."""
        self.clock.after(seconds * self.slowness, self._fire, self._life, what, args)

    def at(self, when: float, what: Callable[..., object], *args: Any) -> None:
        """By the clock on its wall, however slow it is."""
        self.clock.at(when, self._fire, self._life, what, args)

    def reach(self, what: Callable[..., object], *args: Any) -> None:
        """Something comes from outside, now."""
        self._fire(self._life, what, args)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for what, args in held:
            self.at(self.clock.now, what, *args)

    def crash(self) -> None:
        self.up, self.paused = False, False
        self._life += 1
        self._held.clear()

    def boot(self) -> None:
        self.up = True

    def _fire(self, life: int, what: Callable[..., object], args: tuple[Any, ...]) -> None:
        if life != self._life or not self.up:
            return
        if self.paused:
            self._held.append((what, args))
        else:
            what(*args)
