"""Who may be on which line while a stream is suspected of killing the lines that carry it; see
`suspicion` for the rules."""

from __future__ import annotations

from collections.abc import Collection

from paceline.gateway.driver import Driver, LiveStream
from paceline.gateway.links import Links
from paceline.gateway.metrics import Metrics
from paceline.gateway.recovery import Leave
from paceline.gateway.routes import RouteTable
from paceline.gateway.suspicion import Case, Trial, trial
from paceline.process.logs import get_logger
from paceline.types.errors import PacelineError
from paceline.types.ids import InstanceId

log = get_logger(__name__)


class EndsItsLine(PacelineError):
    """Whatever runs this stream dies of it."""

    code = "request_ends_its_line"


class Court:
    """`sit` before streams are looked after; what it ruled holds until the next time."""

    def __init__(self, table: RouteTable, links: Links, metrics: Metrics) -> None:
        self._table = table
        self._links = links
        self._metrics = metrics
        self._trials: dict[str, Trial] = {}
        """By model, where a stream is suspected."""

    def sit(self, lives: Collection[LiveStream]) -> None:
        models = {live.model for live in lives if live.suspicion.is_suspect}
        held = {model: self._trial(model, lives) for model in models}
        self._trials = {model: one for model, one in held.items() if one is not None}

    def may_ride(self, live: LiveStream, instance: InstanceId) -> bool:
        held = self._trials.get(live.model)
        return held is None or held.allows(live.stream.stream_id, live.suspicion, instance)

    def may_board(self, live: LiveStream, driver: Driver) -> bool:
        """The accused waits until its line is empty."""
        is_full = bool(driver.streams) and self._is_accused(live)
        return self.may_ride(live, driver.route.instance) and not is_full

    def hear(self, live: LiveStream, driver: Driver, reason: Leave) -> None:
        """A stream was taken off a driver. Raises EndsItsLine if it is the cause."""
        if not self._counts(live, driver, reason):
            return
        gained, alone = live.has_gained, driver.company <= 1
        live.suspicion = live.suspicion.after_failure(alone=alone, gained=gained)
        if gained:
            return
        self._metrics.suspicions.labels("alone" if alone else "shared").inc()
        log.warning(
            "a line failed under a stream that had gained nothing there",
            stream=live.stream.stream_id,
            instance=driver.route.instance,
            epoch=str(driver.route.epoch),
            shared=live.suspicion.shared,
            alone=live.suspicion.alone,
        )
        if live.suspicion.is_guilty:
            raise EndsItsLine(_verdict(live, driver))

    def _counts(self, live: LiveStream, driver: Driver, reason: Leave) -> bool:
        """Whether its line failed; or, of a line that it had to itself, stood still. Silence of a
        driver whose line stands, as the controller has it, is the link's."""
        instance, epoch = driver.route.instance, driver.route.epoch
        if reason is Leave.STALLED:
            return self._is_accused(live)
        stands = reason is Leave.LINK and self._table.epoch_of(instance) == epoch
        return reason.ends_the_line and not stands and not self._table.was_retired(instance, epoch)

    def _is_accused(self, live: LiveStream) -> bool:
        held = self._trials.get(live.model)
        return held is not None and held.accused == live.stream.stream_id

    def _trial(self, model: str, lives: Collection[LiveStream]) -> Trial | None:
        drivers = self._links.usable(self._table.of_model(model))
        drivers.sort(key=lambda driver: len(driver.streams))
        cases = [_case(live) for live in lives if live.model == model]
        return trial(cases, [driver.route.instance for driver in drivers])


def _case(live: LiveStream) -> Case:
    rides = live.driver.route.instance if live.driver is not None else None
    return Case(stream=live.stream.stream_id, suspicion=live.suspicion, rides=rides)


def _verdict(live: LiveStream, driver: Driver) -> str:
    last = driver.closing or driver.broken or "its driver was lost"
    return (
        f"the instance failed {live.suspicion.alone} times in a row while this request had it to "
        f"itself, after {len(live.stream.emitted_ids)} tokens of its answer; it is not tried "
        f"again. The last failure: {last}"
    )
