"""One driver in one epoch as a gateway sees it, and the streams that it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from paceline.gateway.errors import RemoteError, SlowClient, StreamFailed
from paceline.gateway.metrics import Metrics
from paceline.gateway.recovery import Leave, Pause
from paceline.gateway.streams import Stream, Verdict
from paceline.gateway.suspicion import INNOCENT, Suspicion
from paceline.process.logs import get_logger
from paceline.types.control import Route
from paceline.types.errors import PacelineError, TransportError
from paceline.types.ids import InstanceId, StreamId
from paceline.types.stream import (
    Cancel,
    Closing,
    Finished,
    FinishReason,
    FromDriver,
    Rejected,
    Renew,
    Submit,
    ToDriver,
    Token,
    Tokens,
    Waiting,
)

log = get_logger(__name__)


class FrontLink(Protocol):
    """The gateway's end of a driver's front; `transport.front.AsyncFrontClient` is the real one."""

    @property
    def silence(self) -> float:
        """Seconds since the driver was last heard, or since the link was made."""

    def send(self, message: ToDriver) -> None:
        """Never waits. Raises TransportError: the driver is gone or takes no more."""

    async def receive(self) -> FromDriver:
        """Raises TransportError."""

    def close(self) -> None: ...


class LiveStream:
    """A stream on its way: who carries it, until when, and what it failed of."""

    def __init__(
        self, stream: Stream, *, model: str, now: float, deadline: float, wake: Callable[[], None]
    ) -> None:
        self.stream = stream
        self.model = model
        self.opened_at = now
        self.deadline = deadline
        self.wake = wake
        """Called when there is something to take: tokens, the end, an error."""
        self.driver: Driver | None = None
        self.leave: Leave | None = None
        """Set by its driver's messages: it must be carried elsewhere."""
        self.avoid: InstanceId | None = None
        self.submitted_at = now
        self.gained_at = now
        self.waited_at = now
        """When its driver last said that it waits for others."""
        self.not_before = now
        self.to_read = 0
        """Tokens that its driver must read before the next one comes; none once it has come."""
        self.suspicion: Suspicion = INNOCENT
        self.pause: Pause | None = None
        """Since the loss of its driver was noticed, until the next token."""
        self.stalls = 0
        self.refusals = 0
        self.refusal: Rejected | None = None
        """The last one."""
        self.homeless_since: float | None = None
        """Since when no driver could take it."""
        self.absent_since: float | None = None
        """Since when, besides, no instance of its model is on its way."""
        self.first_token_at: float | None = None
        self.numerics_id = ""
        self.error: PacelineError | None = None

    @property
    def over(self) -> bool:
        return self.stream.ended or self.error is not None

    @property
    def has_gained(self) -> bool:
        """Whether it has got a token since it was submitted last."""
        return self.to_read == 0

    @property
    def moved_at(self) -> float:
        """When it last made progress with its present driver, or none could be made."""
        return max(self.submitted_at, self.gained_at, self.waited_at)

    def fail(self, error: PacelineError) -> None:
        if not self.over:
            self.error = error
        self.wake()


class Driver:
    """Hands messages to streams. After `closing` or `broken` only its end is left to do."""

    def __init__(
        self, route: Route, link: FrontLink, metrics: Metrics, max_pending_tokens: int
    ) -> None:
        self.route = route
        self.link = link
        self.streams: dict[StreamId, LiveStream] = {}
        self.closing = ""
        self.broken = ""
        self.company = 0
        """How many streams it carried when its line failed."""
        self._metrics = metrics
        self._max_pending_tokens = max_pending_tokens

    @property
    def over(self) -> bool:
        return bool(self.closing or self.broken)

    def submit(self, live: LiveStream, now: float) -> bool:
        """False if the driver could not be told; it then carries nothing."""
        record = live.stream.next_attempt()
        if not self._told(Submit(record)):
            return False
        self.streams[record.stream_id] = live
        live.driver, live.leave, live.submitted_at = self, None, now
        live.to_read = len(record.prompt_ids) + len(record.emitted_ids)
        return True

    def release(self, live: LiveStream, *, cancel: bool) -> None:
        """Carry it no more; `cancel` tells the driver so, as far as it can be told."""
        if self.streams.pop(live.stream.stream_id, None) is None:
            return
        live.driver = None
        if cancel and not self.over:
            self._told(Cancel(live.stream.stream_id, live.stream.attempt))

    def renew(self) -> None:
        streams = tuple((live.stream.stream_id, live.stream.attempt) for live in self._lives())
        if streams and not self.over:
            self._told(Renew(streams))

    def _told(self, message: ToDriver) -> bool:
        """A driver that cannot be told frees by itself what nobody renews."""
        try:
            self.link.send(message)
        except TransportError:
            return False
        return True

    def heed(self, message: FromDriver, now: float) -> bool:
        """Take in a message; True if a stream must now be carried elsewhere."""
        match message:
            case Tokens():
                self._tokens(message, now)
            case Rejected():
                self._rejected(message)
            case Waiting(streams):
                self._wait(streams, now)
            case Closing():
                self.closing = message.reason or "no reason was given"
        return bool(self.closing) or any(live.leave for live in self._lives())

    def _tokens(self, message: Tokens, now: float) -> None:
        gained: dict[StreamId, int] = {}
        for token in message.tokens:
            if self._token(token):
                gained[token.stream_id] = gained.get(token.stream_id, 0) + 1
        for stream_id, count in gained.items():
            self._gained(self.streams[stream_id], count, now)
        finished = {end.stream_id for end in message.finished if self._finished(end)}
        for stream_id in finished | gained.keys():
            live = self.streams[stream_id]
            if live.over:
                self.release(live, cancel=stream_id not in finished)
                live.wake()

    def _token(self, token: Token) -> bool:
        live = self.streams.get(token.stream_id)
        verdict = Verdict.STALE if live is None else live.stream.accept(token)
        if live is None or verdict is not Verdict.ACCEPTED:
            self._drop(live, verdict)
            return False
        return True

    def _gained(self, live: LiveStream, count: int, now: float) -> None:
        if live.first_token_at is None:
            live.first_token_at = now
            self._metrics.time_to_first_token.labels(live.model).observe(now - live.opened_at)
            count -= 1
        for _ in range(count):
            latency = (now - live.gained_at) / count
            self._metrics.inter_token_latency.labels(live.model).observe(latency)
        live.gained_at, live.to_read, live.refusals = now, 0, 0
        live.suspicion = INNOCENT
        if live.pause is not None and live.submitted_at >= live.pause.noticed_at:
            self._goes_on(live, live.pause.phases(live.submitted_at, now))
        live.pause = None
        if live.stream.pending_tokens > self._max_pending_tokens:
            live.fail(SlowClient("the client does not read its answer; the stream was cancelled"))
        live.wake()

    def _goes_on(self, live: LiveStream, phases: dict[str, float]) -> None:
        for phase, seconds in phases.items():
            self._metrics.stream_pause.labels(live.model, phase).observe(seconds)
        log.info(
            "stream goes on",
            stream=live.stream.stream_id,
            attempt=live.stream.attempt,
            instance=self.route.instance,
            epoch=str(self.route.epoch),
            emitted=len(live.stream.emitted_ids),
            **{f"{phase}_s": round(seconds, 3) for phase, seconds in phases.items()},
        )

    def _finished(self, end: Finished) -> bool:
        """Whether the driver has forgotten this stream's current attempt."""
        live = self.streams.get(end.stream_id)
        if live is None or end.attempt != live.stream.attempt:
            return False
        if end.reason is FinishReason.ERROR:
            live.fail(StreamFailed(end.message or "the driver gave up on the stream"))
        elif live.over:
            pass
        elif end.reason is FinishReason.CANCELLED:
            live.leave = Leave.CANCELLED
        else:
            self._drop(live, live.stream.finish(end))
        return True

    def _rejected(self, message: Rejected) -> None:
        live = self.streams.get(message.stream_id)
        if live is None or message.attempt != live.stream.attempt:
            self._drop(live, Verdict.STALE)
        elif message.retry:
            live.refusals += 1
            live.refusal = message
            live.leave = Leave.REJECTED
        else:
            self.release(live, cancel=False)
            live.fail(RemoteError(message.code, message.message))

    def _wait(self, streams: Iterable[tuple[StreamId, int]], now: float) -> None:
        for stream_id, attempt in streams:
            live = self.streams.get(stream_id)
            if live is not None and live.stream.attempt == attempt:
                live.waited_at = now

    def _drop(self, live: LiveStream | None, verdict: Verdict) -> None:
        if verdict is Verdict.GAP and live is not None:
            live.leave = Leave.GAP
        if verdict is not Verdict.ACCEPTED:
            self._metrics.dropped.labels(verdict.value).inc()

    def _lives(self) -> tuple[LiveStream, ...]:
        return tuple(self.streams.values())
