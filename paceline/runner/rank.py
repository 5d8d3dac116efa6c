"""The flow of steps through one rank, for one epoch: in from the rank before (or from the driver's
scheduler), through the compute thread, out to the next rank."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch

from paceline.runner.compute import Compute, Hidden
from paceline.runner.driver import Driver
from paceline.runner.line import Line
from paceline.runner.worker import Worker, WorkerBusy
from paceline.transport.errors import LinkBroken
from paceline.transport.frames import Frame, Tensor
from paceline.types.errors import PacelineError
from paceline.types.ids import StreamId
from paceline.types.step import Sampled, Step

STEP_DEADLINE_S = 300.0
"""No step of any model on any machine takes so long; a line that does is hung."""

MAX_FRAMES_PER_PUMP = 64

log = structlog.get_logger("rank")


class Rank:
    """`on_lost(reason)` is called once when the line is of no more use, `on_failed(reason)` when
    the shard itself is not: its arithmetic or its memory failed. Either ends this object."""

    def __init__(
        self,
        line: Line,
        compute: Compute,
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
        self._worker = worker
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._clock = clock
        self._closed = False
        self._oldest_step_at: float | None = None
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
                self.driver.close(reason)
            self.line.close()

    # --- what tasks ask of it --------------------------------------------------------------------

    def warm_up(self) -> None:
        if self.driver is not None:
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
        self._start_steps(driver, now)
        age = 0.0 if self._oldest_step_at is None else now - self._oldest_step_at
        if age > STEP_DEADLINE_S:
            raise LinkBroken(f"no step came back within {STEP_DEADLINE_S:g} s")

    def _start_steps(self, driver: Driver, now: float) -> None:
        if not self.line.established:
            return
        while (step := driver.next_step()) is not None:
            if self._oldest_step_at is None:
                self._oldest_step_at = now
            self._submit(step, None)

    def _arrived(self, frame: Frame, now: float) -> None:
        match frame.body:
            case Step() as step if self.driver is None:
                data = None if frame.tensor is None else memoryview(frame.tensor.data)
                self._submit(step, data)
            case Sampled() as sampled if self.driver is not None:
                self._sampled(self.driver, sampled, now)
            case body:
                raise LinkBroken(f"a {type(body).__name__} frame has no business at this rank")

    def _submit(self, step: Step, payload: memoryview | None) -> None:
        compute = self._compute
        self._worker.submit(lambda: compute.run(step, payload), self._computed)

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
                    self._sampled(self.driver, sampled, now)
                    self._start_steps(self.driver, now)
                case Sampled() as sampled:
                    self.line.send(sampled, None, now)
        except (PacelineError, WorkerBusy) as broken:
            self._lose(str(broken))

    def _sampled(self, driver: Driver, sampled: Sampled, now: float) -> None:
        driver.complete(sampled)
        self._oldest_step_at = now if driver.scheduler.in_flight else None

    def _lose(self, reason: str) -> None:
        log.warning("line_lost", reason=reason)
        self.close(reason)
        self._on_lost(reason)

    def _fail(self, reason: str) -> None:
        log.error("engine_failed", reason=reason)
        self.close(reason)
        self._on_failed(reason)


def _tensor(rows: torch.Tensor) -> Tensor:
    """Rows [n, width] as bytes for the wire; the memory is shared, not copied."""
    array = rows.numpy()
    return Tensor(str(array.dtype), array.shape, array.data)
