"""The flow of steps through one rank, for one epoch: in from the rank before (or from the driver's
scheduler), through the compute thread, out to the next rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog
import torch
from msgspec.structs import replace

from paceline.runner.compute import Compute, Hidden
from paceline.runner.driver import Driver
from paceline.runner.kv_memory import KvMemory
from paceline.runner.line import Line
from paceline.runner.pulse import SHORTEST_S, Pulse
from paceline.runner.worker import Worker, WorkerBusy
from paceline.transport.errors import LinkBroken
from paceline.transport.frames import Frame, Tensor
from paceline.types.errors import EngineError, PacelineError
from paceline.types.ids import StreamId
from paceline.types.step import Sampled, Step, Times

MAX_FRAMES_PER_PUMP = 64

log = structlog.get_logger("rank")


class Rank:
    """`on_lost(reason)` is called once when the line is of no more use, `on_failed(reason)` when
    the shard itself is not: its arithmetic or its memory failed. Either ends this object."""

    def __init__(
        self,
        line: Line,
        compute: Compute,
        kv: KvMemory,
        worker: Worker,
        driver: Driver | None,
        *,
        on_lost: Callable[[str], None],
        on_failed: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.line = line
        self.driver = driver
        self._compute = compute
        self._kv = kv
        self._worker = worker
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._clock = clock
        self._closed = False
        self._rows_in_flight: deque[int] = deque()
        # More patient than each rank is with itself: the guilty one should be named, not the line.
        self._round_trip = Pulse(clock, shortest_s=2 * SHORTEST_S)
        worker.submit(compute.begin_line, lambda _, error: None)

    def pump(self, now: float) -> None:
        """Move everything that can move. Never blocks, never raises."""
        if self._closed:
            return
        try:
            for _ in range(MAX_FRAMES_PER_PUMP):
                frame = self.line.receive(now)
                if frame is None:
                    break
                self._arrived(frame, now)
            self.line.tick(now)
            if self.driver is not None:
                self._drive(self.driver, now)
        except (PacelineError, WorkerBusy) as error:
            self._lose(str(error))

    def close(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            if self.driver is not None:
                self._keep_kv(self.driver)
                self.driver.close(reason)
            self.line.close()

    def _keep_kv(self, driver: Driver) -> None:
        try:
            self._kv.left_by(self.line.driver_key, driver.scheduler.full_pages)
        except EngineError as error:  # whatever ended the line may have left its books half written
            log.warning("kv_not_kept", reason=str(error))

    # --- what tasks ask of it --------------------------------------------------------------------

    def warm_up(self) -> None:
        if self.driver is not None:
            kept = self._kv.take(self.line.kv_generations)
            log.info("kv_kept", pages=len(kept))
            self.driver.scheduler.recall(kept)
            self.driver.warm_up(StreamId(f"warm-up-{self.line.epoch}"))

    @property
    def warmed(self) -> bool:
        """The driver's warm-up came back; at other ranks, it went through."""
        return self.driver.warmed if self.driver is not None else self.line.steps > 0

    def open(self) -> None:
        """Take streams from now on."""
        if self.driver is not None:
            self.driver.refusing = None

    def drain(self) -> None:
        """Take no new streams; the running ones go on."""
        if self.driver is not None:
            self.driver.refusing = "the instance is being drained"

    @property
    def drained(self) -> bool:
        return self.driver is None or self.driver.streams == 0

    # --- flow ------------------------------------------------------------------------------------

    def _drive(self, driver: Driver, now: float) -> None:
        if self.line.front is not None:
            for peer, message in self.line.front.receive():
                driver.receive(peer, message, now)
        driver.tick(now)
        self._start_steps(driver)
        trip = self._round_trip.look()
        if trip is not None and trip.is_stuck:
            raise LinkBroken(
                f"a step has been in the line for {trip.silent_s:.1f} s; "
                f"by the pace measured it is given {trip.patience_s:.1f} s"
            )

    def _start_steps(self, driver: Driver) -> None:
        if not self.line.established:
            return
        while (step := driver.next_step(self._clock())) is not None:
            self._rows_in_flight.append(step.rows)
            if len(self._rows_in_flight) == 1:
                self._round_trip.begin("round trip", step.rows)
            self._submit(step, None)

    def _arrived(self, frame: Frame, now: float) -> None:
        match frame.body:
            case Step() as step if self.driver is None:
                data = None if frame.tensor is None else memoryview(frame.tensor.data)
                self._submit(step, data)
            case Sampled() as sampled if self.driver is not None:
                self._sampled(self.driver, sampled)
            case body:
                raise LinkBroken(f"a {type(body).__name__} frame has no business at this rank")

    def _submit(self, step: Step, payload: memoryview | None) -> None:
        self._kv.written_by(self.line.driver_key)
        compute, clock, asked_at = self._compute, self._clock, self._clock()

        def run() -> Hidden | Sampled:
            began_at = clock()
            result = compute.run(step, payload)
            times = step.times.with_rank(worked_s=clock() - began_at, waited_s=began_at - asked_at)
            return _timed(result, times)

        self._worker.submit(run, self._computed)

    def _computed(self, result: Hidden | Sampled | None, error: BaseException | None) -> None:
        """On the I/O thread again, with what the compute thread made of a step."""
        if self._closed:
            return
        if result is None:
            self._fail(f"a step failed: {error}")
            return
        self.line.steps += 1
        now = self._clock()
        try:
            match result:
                case Hidden(step, rows):
                    self.line.send(step, _tensor(rows) if step.spans else None, now)
                case Sampled() as sampled if self.driver is not None:
                    self._sampled(self.driver, sampled)
                case Sampled() as sampled:
                    self.line.send(sampled, None, now)
        except (PacelineError, WorkerBusy) as broken:
            self._lose(str(broken))

    def _sampled(self, driver: Driver, sampled: Sampled) -> None:
        completion = driver.complete(sampled, self._clock())
        self._rows_in_flight.popleft()
        self._round_trip.end()
        if self._rows_in_flight:
            self._round_trip.begin("round trip", self._rows_in_flight[0])
        # The line first: gateways can wait for the moment that a step takes to make.
        try:
            self._start_steps(driver)
        finally:
            driver.deliver(completion)

    def _lose(self, reason: str) -> None:
        log.warning("line_lost", reason=reason)
        self.close(reason)
        self._on_lost(reason)

    def _fail(self, reason: str) -> None:
        log.error("engine_failed", reason=reason)
        self.close(reason)
        self._on_failed(reason)


def _timed(result: Hidden | Sampled, times: Times) -> Hidden | Sampled:
    if isinstance(result, Sampled):
        return replace(result, times=times)
    return Hidden(replace(result.step, times=times), result.rows)


def _tensor(rows: torch.Tensor) -> Tensor:
    """Rows float32 [n, width] as bytes for the wire; the memory is shared, not copied."""
    return Tensor("float32", tuple(rows.shape), rows.numpy().data)
