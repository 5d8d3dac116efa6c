"""All drivers of all instances, and every live stream: the shell around `recovery`.

Routes come in, links are dialled and closed, and each stream without a driver is submitted to one
until its deadline. Nothing here waits for the controller or for a single driver.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from paceline.gateway.court import Court, EndsItsLine
from paceline.gateway.driver import Driver, LiveStream
from paceline.gateway.errors import Overloaded, as_known
from paceline.gateway.links import Dial, Links
from paceline.gateway.metrics import Metrics
from paceline.gateway.recovery import (
    Candidate,
    Carriage,
    Leave,
    Pause,
    choose,
    patience_s,
    reason_to_leave,
)
from paceline.gateway.routes import RouteTable, Standing
from paceline.gateway.settings import Settings
from paceline.process.logs import get_logger
from paceline.types.control import Route, Routes
from paceline.types.errors import DeadlineExceeded, PacelineError, QueueFull, Unavailable
from paceline.types.facts import DriverLink
from paceline.types.ids import StreamId

log = get_logger(__name__)

HURRY_S = 0.05
"""Between looks while a stream is without a driver."""
STALLED_LOOP_S = 1.0
"""A loop that was away for longer must hear its links again before it calls one silent."""


class Drivers:
    """Use as `async with`: a task inside attends to the streams as long as the block lasts."""

    links_kind: type[Links] = Links

    def __init__(
        self,
        dial: Dial,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = RouteTable()
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._links = self.links_kind(dial, settings, metrics, clock, self._wake.set)
        self._court = Court(self.table, self._links, metrics)
        self._lives: dict[StreamId, LiveStream] = {}
        self._attendant: asyncio.Task[None] | None = None
        self._looked_at = self._renewed_at = clock()
        self._judge_silence = True
        self._stopping = False

    async def __aenter__(self) -> Drivers:
        self._attendant = asyncio.create_task(self._attend(), name="drivers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._attendant is not None:
            self._attendant.cancel()
            await asyncio.gather(self._attendant, return_exceptions=True)
        self.stop()
        self._links.close()

    @property
    def streams(self) -> int:
        return len(self._lives)

    @property
    def links(self) -> tuple[DriverLink, ...]:
        """What this gateway can testify of its drivers; nothing when its own loop was away."""
        if self._clock() - self._looked_at >= STALLED_LOOP_S:
            return ()
        return self._links.heard

    # --- what the controller says -----------------------------------------------------------------

    def heed(self, routes: Routes) -> None:
        if not self.table.heed(routes):
            log.warning("routes of an older controller ignored", term=routes.term)
            return
        self._metrics.heed(routes)
        self._links.dial_new(self.table.routes.values())
        self._news.set()
        self._news = asyncio.Event()
        self._wake.set()

    async def news(self) -> None:
        """Waits for the next routes."""
        await self._news.wait()

    # --- what requests ask for --------------------------------------------------------------------

    def carry(self, lives: Iterable[LiveStream]) -> None:
        """Carry these to their end. Raises Overloaded or Unavailable, and then takes none."""
        new = tuple(lives)
        if self._stopping:
            raise _stopped()
        if len(self._lives) + len(new) > self._settings.max_streams:
            raise Overloaded(
                f"this gateway carries {len(self._lives)} streams, its limit is "
                f"{self._settings.max_streams}; try again in a moment"
            )
        for live in new:
            self._lives[live.stream.stream_id] = live
            self._place(live, self._clock())
        self._wake.set()

    def drop(self, live: LiveStream) -> None:
        """Nobody wants this stream any more. Safe to repeat."""
        self._lives.pop(live.stream.stream_id, None)
        if live.driver is not None:
            live.driver.release(live, cancel=not live.stream.ended)

    def stop(self) -> None:
        """End all streams with a word to their clients, and take no more."""
        self._stopping = True
        for live in tuple(self._lives.values()):
            self._give_up(live, _stopped())

    # --- the attendant ----------------------------------------------------------------------------

    async def _attend(self) -> None:
        while True:
            self._wake.clear()
            homeless = False
            try:
                homeless = self.look()
            except Exception:  # the streams must be looked after again, whatever this was
                log.exception("the streams could not be looked after")
            try:
                async with asyncio.timeout(HURRY_S if homeless else self._settings.tick_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def look(self) -> bool:
        """Look after everything once; True if a stream is left without a driver."""
        now = self._clock()
        self._judge_silence = now - self._looked_at < STALLED_LOOP_S
        self._looked_at = now
        self._links.dial_new(self.table.routes.values())
        # All who must leave have left before anyone is given a place.
        for step in (self._see_off, self._place):
            self._court.sit(self._lives.values())
            for live in tuple(self._lives.values()):
                self._try(step, live, now)
        if now - self._renewed_at >= self._settings.renew_s:
            self._renewed_at = now
            self._links.renew()
        self._links.hang_up_old(self.table.routes.values())
        return any(live.driver is None for live in self._lives.values())

    def _try(self, step: Callable[[LiveStream, float], None], live: LiveStream, now: float) -> None:
        try:
            step(live, now)
        except Exception as error:  # what ails one stream must not end the others
            self._give_up(live, as_known(error))

    def _see_off(self, live: LiveStream, now: float) -> None:
        if live.over:
            self.drop(live)
            return
        if now >= live.deadline:
            self._give_up(live, self._too_late(live, now))
            return
        if live.driver is not None:
            if self.table.epoch_of(live.driver.route.instance) is None:
                self._note_pause(live, now)
            reason = live.leave or self._reason_to_leave(live, live.driver, now)
            if reason is not None:
                self._take_off(live, live.driver, reason, now)

    def _reason_to_leave(self, live: LiveStream, driver: Driver, now: float) -> Leave | None:
        settings = self._settings
        patience = patience_s(
            base_s=settings.stall_s,
            per_token_s=settings.stall_per_token_s,
            to_read=live.to_read,
            stalls=live.stalls,
        )
        carriage = Carriage(
            closing=bool(driver.closing),
            broken=bool(driver.broken),
            silence_s=driver.link.silence if self._judge_silence else 0.0,
            epoch=driver.route.epoch,
            newest_epoch=self.table.epoch_of(driver.route.instance),
            disallowed=not self._court.may_ride(live, driver.route.instance),
            idle_s=now - live.moved_at,
            patience_s=patience,
        )
        return reason_to_leave(carriage, settings.link_silence_s)

    def _take_off(self, live: LiveStream, driver: Driver, reason: Leave, now: float) -> None:
        if reason.ends_the_line:
            driver.company = driver.company or len(driver.streams)
        driver.release(live, cancel=True)
        self._metrics.resubmissions.labels(reason.value).inc()
        log.info(
            "stream leaves its driver",
            stream=live.stream.stream_id,
            attempt=live.stream.attempt,
            instance=driver.route.instance,
            epoch=str(driver.route.epoch),
            reason=reason.value,
            emitted=len(live.stream.emitted_ids),
        )
        self._note_pause(live, now)
        live.avoid = driver.route.instance if reason.blames_the_instance else None
        live.stalls += reason is Leave.STALLED
        if reason is Leave.REJECTED:
            self._refused(live, now)
        try:
            self._court.hear(live, driver, reason)
        except EndsItsLine as error:
            self._give_up(live, error)

    def _note_pause(self, live: LiveStream, now: float) -> None:
        live.pause = live.pause or Pause(silent_since=live.moved_at, noticed_at=now)

    def _refused(self, live: LiveStream, now: float) -> None:
        """A stream that has begun waits to its deadline. A new one gives way sooner, and at once
        when the queues of all instances are full: no second queue stands before them."""
        settings = self._settings
        pause = min(settings.retry_s * 2 ** (live.refusals - 1), settings.retry_max_s)
        live.not_before = now + pause
        if live.stream.emitted_ids or live.refusal is None:
            return
        instances = len(self._links.usable(self.table.of_model(live.model)))
        if live.refusal.code == QueueFull.code and live.refusals >= instances:
            error = QueueFull(live.refusal.message, live.refusal.retry_after_s)
            self._give_up(live, error)
        elif now - live.opened_at > settings.route_wait_s:
            self._give_up(live, Unavailable(live.refusal.message))

    def _place(self, live: LiveStream, now: float) -> None:
        if live.over or live.driver is not None or now < live.not_before:
            return
        candidates = [
            Candidate(route=driver.route, carried=len(driver.streams))
            for driver in self._links.usable(self.table.of_model(live.model))
            if self._court.may_board(live, driver)
        ]
        route = choose(candidates, live.avoid)
        if route is None:
            self._await_driver(live, now)
        elif self._links.driver(route).submit(live, now):
            live.homeless_since = live.absent_since = None
            self._note_numerics(live, route)

    def _await_driver(self, live: LiveStream, now: float) -> None:
        """A stream that has begun waits to its deadline, unless nobody wants its instance; a new
        one waits no longer here than it would have outside."""
        standing = self.table.standing(live.model)
        reasons = "; ".join(standing.reasons)
        live.homeless_since = now if live.homeless_since is None else live.homeless_since
        # An instance that is called failed is tried on: a stream that has begun waits for it.
        hopeless = (
            (Standing.ABSENT,) if live.stream.emitted_ids else (Standing.ABSENT, Standing.DOWN)
        )
        if standing.standing not in hopeless:
            live.absent_since = None
        elif live.absent_since is None:
            live.absent_since = now
        elif now - live.absent_since > self._settings.gone_s:
            reasons = reasons or "its instance was deleted"
            self._give_up(live, Unavailable(f"model {live.model} is not served: {reasons}"))
        fresh = not live.stream.emitted_ids
        if fresh and now - live.homeless_since > self._settings.route_wait_s:
            reasons = reasons or "its driver is not heard"
            self._give_up(live, Unavailable(f"model {live.model} cannot answer now: {reasons}"))

    def _note_numerics(self, live: LiveStream, route: Route) -> None:
        """Going on with other numerics is allowed; that the text may differ is said."""
        if live.stream.emitted_ids and live.numerics_id != route.numerics_id:
            self._metrics.numerics_changes.inc()
            log.warning(
                "stream goes on with another numerics id",
                stream=live.stream.stream_id,
                old=live.numerics_id,
                new=route.numerics_id,
            )
        live.numerics_id = route.numerics_id

    def _too_late(self, live: LiveStream, now: float) -> PacelineError:
        """Whose instance never came may come again; who was served asks for too much."""
        waited_s, made = now - live.opened_at, len(live.stream.emitted_ids)
        if live.homeless_since is not None and not made:
            reasons = "; ".join(self.table.standing(live.model).reasons) or "it recovers"
            return Unavailable(
                f"model {live.model} did not answer within {waited_s:.0f} s, try again later: "
                f"{reasons}"
            )
        return DeadlineExceeded(
            f"the answer was not complete within {waited_s:.0f} s ({made} tokens were made); "
            "allow more with `timeout`, or ask for fewer tokens"
        )

    def _give_up(self, live: LiveStream, error: PacelineError) -> None:
        self.drop(live)
        live.fail(error)


def _stopped() -> Unavailable:
    return Unavailable("this gateway is stopping; send the request again")
