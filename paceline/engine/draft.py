"""A step while it is being made."""

from __future__ import annotations

from paceline.engine.flight import Flight
from paceline.engine.slots import SlotTable
from paceline.types.step import Admission, Span, Step


class Draft:
    """Rows of slots, in the order in which they are fed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._spans: list[Span] = []
        self._token_ids: list[int] = []
        self._admitted: list[Admission] = []
        self._positions: dict[int, int] = {}

    @property
    def spans(self) -> int:
        return len(self._spans)

    @property
    def rows(self) -> int:
        return len(self._token_ids)

    def feed(self, slots: SlotTable, slot: int, count: int, guesses: tuple[int, ...] = ()) -> None:
        """The slot's next `count` ids, and guesses at those behind them; at its first ones the
        ranks are told who it is."""
        sequence = slots.running[slot]
        if sequence.new:
            self._admitted.append(sequence.admission(slot))
        self._token_ids += (*sequence.next_ids(count), *guesses)
        span = slots.feed(slot, count, self.number, guesses)
        self._spans.append(span)
        if span.sample:
            self._positions[slot] = sequence.emitted

    def step(self, freed: tuple[int, ...]) -> Step:
        return Step(
            number=self.number,
            freed=freed,
            admitted=tuple(self._admitted),
            spans=tuple(self._spans),
            token_ids=tuple(self._token_ids),
        )

    def flight(self, step: Step) -> Flight:
        """Of the step that this one became."""
        return Flight(self.number, self._positions, step.guesses)
