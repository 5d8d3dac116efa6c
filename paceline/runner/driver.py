"""The driver's streams: from gateways into the scheduler, and tokens back to who asked.

Owns no socket's life and no torch. A stream belongs to the gateway that submitted it last; it is
freed when that gateway stops renewing it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import structlog

from paceline.engine.scheduler import Completion, Scheduler
from paceline.engine.stepcost import StepCost
from paceline.runner.depth import Depth
from paceline.runner.trips import Trips
from paceline.runner.turnover import Turnover
from paceline.types.errors import InvalidRequest, PacelineError, QueueFull, Unavailable
from paceline.types.facts import StreamLoad
from paceline.types.ids import StreamId
from paceline.types.step import Sampled, Step
from paceline.types.stream import (
    Cancel,
    Closing,
    Finished,
    FromDriver,
    Rejected,
    Renew,
    SamplingParams,
    StreamRecord,
    Submit,
    ToDriver,
    Token,
    Tokens,
    Waiting,
)

RENEWAL_S = 30.0
"""A stream that no gateway renewed for so long is freed."""

MAX_BACKLOG = 2048
"""Messages kept for a gateway that reads slowly; past it, its streams are cancelled."""

WAITING_S = 2.0
"""Between two words to a gateway about those who wait."""

RETURNING_PART = 8
"""Who finds the queue full is asked back when one part in so many of it will have moved on."""

log = structlog.get_logger("driver")


class Front(Protocol):
    """The part of the transport's front door that the driver uses."""

    def send(self, peer: bytes, message: FromDriver) -> bool: ...


class _Held:
    """A stream that a gateway waits for."""

    __slots__ = ("attempt", "peer", "renewed")

    def __init__(self, peer: bytes, attempt: int, now: float) -> None:
        self.peer = peer
        self.attempt = attempt
        self.renewed = now


class Driver:
    """Streams of one line in one epoch. Times are monotonic seconds, given by the caller."""

    def __init__(self, scheduler: Scheduler, cost: StepCost, depth: Depth, front: Front) -> None:
        """`cost` is the scheduler's: it is told here how long steps take. `depth` says how many
        of them the scheduler is to have in flight."""
        self.scheduler = scheduler
        self._cost = cost
        self._depth = depth
        self._trips = Trips()
        self._turnover = Turnover()
        self._front = front
        self._held: dict[StreamId, _Held] = {}
        self._backlog: dict[bytes, _Backlog] = {}
        self._emitted = 0
        self._has_moved = False
        """A step has come back since gateways were told who waits."""
        self._told_at = -math.inf
        self._warm_up: StreamId | None = None
        self.warmed = False
        self.refusing: str | None = "the line is not ready yet"
        """Why new streams are turned away; None while they are taken."""

    # --- from gateways -------------------------------------------------------------------------

    def receive(self, peer: bytes, message: ToDriver, now: float) -> None:
        match message:
            case Submit(record):
                self._submit(peer, record, now)
            case Cancel(stream_id, attempt):
                self._cancel(stream_id, attempt)
            case Renew(streams):
                for stream_id, attempt in streams:
                    held = self._held.get(stream_id)
                    if held is not None and held.attempt == attempt:
                        held.renewed = now

    def _submit(self, peer: bytes, record: StreamRecord, now: float) -> None:
        held = self._held.get(record.stream_id)
        if held is not None and held.attempt >= record.attempt:
            return
        try:
            if self.refusing is not None:
                raise Unavailable(self.refusing)
            ended = self.scheduler.submit(record)
        except PacelineError as error:
            log.info("stream_rejected", stream=record.stream_id, reason=str(error))
            self._send(peer, self._rejected(record, error, now))
            return
        if ended is not None:  # the record's last token had ended it already
            self._send(peer, Tokens(tokens=(), finished=(ended,)))
        else:
            if not self._held:
                self._turnover.began(now)
            self._held[record.stream_id] = _Held(peer, record.attempt, now)

    def _rejected(self, record: StreamRecord, error: PacelineError, now: float) -> Rejected:
        full = isinstance(error, QueueFull)
        places = self.scheduler.waiting // RETURNING_PART + 1
        return Rejected(
            stream_id=record.stream_id,
            attempt=record.attempt,
            code=error.code,
            message=str(error),
            retry=not isinstance(error, InvalidRequest),
            retry_after_s=self._turnover.wait_s(places, now) if full else None,
        )

    def _cancel(self, stream_id: StreamId, attempt: int) -> None:
        held = self._held.get(stream_id)
        if held is not None and held.attempt <= attempt:
            del self._held[stream_id]
            self.scheduler.cancel(stream_id, held.attempt)

    def warm_up(self, stream_id: StreamId) -> None:
        """Send one small stream of our own through the line; `warmed` tells when it is through."""
        self._warm_up, self.warmed = stream_id, False
        params = SamplingParams(max_tokens=2, seed=0, temperature=0.0, ignore_eos=True)
        self.scheduler.submit(
            StreamRecord(stream_id=stream_id, attempt=0, prompt_ids=(0,), params=params)
        )

    # --- steps ---------------------------------------------------------------------------------

    def next_step(self, now: float) -> Step | None:
        step = self.scheduler.schedule()
        if step is not None:
            self._trips.left(step, now)
        return step

    def complete(self, sampled: Sampled, now: float) -> Completion:
        """A step has left the line. What it gave is to be delivered, after what the line waits
        for."""
        completion = self.scheduler.complete(sampled)
        self._has_moved = True
        trip = self._trips.returned(now)
        if trip.decode_rows or trip.prompt_rows:
            self._cost.measured(trip.decode_rows, trip.prompt_rows, trip.took_s)
            times = sampled.times
            self._depth.measured(trip.trip_s - times.waited_s, times.slowest_s)
            self.scheduler.batches_in_flight = self._depth.batches
        self._emitted += len(completion.tokens)
        for _ in completion.finished:
            self._turnover.ended(now)
        return completion

    def deliver(self, completion: Completion) -> None:
        """Hand what a step gave to the gateways that wait for it."""
        for peer, (tokens, finished) in self._by_peer(completion).items():
            self._send(peer, Tokens(tokens=tuple(tokens), finished=tuple(finished)))
        for end in completion.finished:
            self._held.pop(end.stream_id, None)
            self.warmed = self.warmed or end.stream_id == self._warm_up

    def _by_peer(self, completion: Completion) -> dict[bytes, tuple[list[Token], list[Finished]]]:
        shares: dict[bytes, tuple[list[Token], list[Finished]]] = {}
        for token in completion.tokens:
            if (peer := self._waiting_for(token.stream_id, token.attempt)) is not None:
                shares.setdefault(peer, ([], []))[0].append(token)
        for end in completion.finished:
            if (peer := self._waiting_for(end.stream_id, end.attempt)) is not None:
                shares.setdefault(peer, ([], []))[1].append(end)
        return shares

    def _waiting_for(self, stream_id: StreamId, attempt: int) -> bytes | None:
        held = self._held.get(stream_id)
        return held.peer if held is not None and held.attempt == attempt else None

    # --- upkeep --------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Retry what a slow gateway did not take; say who waits; free what nobody renewed."""
        for peer in list(self._backlog):
            self._flush(peer, now)
        if self._has_moved and now - self._told_at >= WAITING_S:
            self._has_moved, self._told_at = False, now
            self._tell_who_waits()
        for stream_id, held in list(self._held.items()):
            if now - held.renewed > RENEWAL_S:
                log.warning("stream_abandoned", stream=stream_id, unrenewed_s=RENEWAL_S)
                self._cancel(stream_id, held.attempt)

    def _tell_who_waits(self) -> None:
        shares: dict[bytes, list[tuple[StreamId, int]]] = {}
        for stream_id, attempt in self.scheduler.held_up:
            if (peer := self._waiting_for(stream_id, attempt)) is not None:
                shares.setdefault(peer, []).append((stream_id, attempt))
        for peer, streams in shares.items():
            self._send(peer, Waiting(tuple(streams)))

    def close(self, reason: str) -> None:
        """Tell every gateway with streams here that they must go on elsewhere."""
        for peer in {held.peer for held in self._held.values()}:
            self._send(peer, Closing(reason=reason))
        self._held.clear()
        self.refusing = reason

    @property
    def streams(self) -> int:
        return len(self._held)

    @property
    def load(self) -> StreamLoad:
        scheduler = self.scheduler
        return StreamLoad(
            running=scheduler.running,
            waiting=scheduler.waiting,
            pages_free=scheduler.pages_free,
            pages_total=scheduler.pages_total,
            tokens_emitted=self._emitted,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            guesses_made=scheduler.guesses_made,
            guesses_right=scheduler.guesses_right,
        )

    def _send(self, peer: bytes, message: FromDriver) -> None:
        """In order behind what the peer has not taken yet."""
        waiting = self._backlog.get(peer)
        if waiting is None and self._front.send(peer, message):
            return
        self._backlog.setdefault(peer, _Backlog()).messages.append(message)

    def _flush(self, peer: bytes, now: float) -> None:
        backlog = self._backlog[peer]
        messages = backlog.messages
        while messages and self._front.send(peer, messages[0]):
            messages.popleft()
            backlog.stuck_since = now
        if not messages:
            del self._backlog[peer]
            return
        stuck = now - (backlog.stuck_since or now)
        backlog.stuck_since = backlog.stuck_since or now
        if len(messages) > MAX_BACKLOG or stuck > RENEWAL_S:
            self._drop_peer(peer)

    def _drop_peer(self, peer: bytes) -> None:
        streams = [(i, held.attempt) for i, held in self._held.items() if held.peer == peer]
        log.warning("gateway_takes_nothing", streams=len(streams))
        del self._backlog[peer]
        for stream_id, attempt in streams:
            self._cancel(stream_id, attempt)


class _Backlog:
    """What a gateway has not taken yet, and since when it has taken nothing."""

    __slots__ = ("messages", "stuck_since")

    def __init__(self) -> None:
        self.messages: deque[FromDriver] = deque()
        self.stuck_since: float | None = None
