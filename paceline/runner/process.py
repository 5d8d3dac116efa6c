"""A runner: a process that can hold one shard, whatever seat it takes.

One thread (this one) reads the mailbox, keeps the books and moves frames; one computes. Facts go
to the controller in beats; nothing waits for the controller.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import zmq

from paceline.engine.lookup import GUESS_ROWS
from paceline.engine.pace import seconds_per_byte
from paceline.engine.scheduler import Scheduler
from paceline.engine.stepcost import StepCost
from paceline.lifecycle import RunnerEvent
from paceline.process.home import Home
from paceline.process.memory import anonymous_bytes
from paceline.runner.depth import Depth
from paceline.runner.driver import Driver
from paceline.runner.jobs import Loaded, fetch, load
from paceline.runner.line import Line
from paceline.runner.mailbox import Mailbox
from paceline.runner.pulse import Pulse
from paceline.runner.rank import Rank
from paceline.runner.supply import Report, Supply
from paceline.runner.worker import Worker
from paceline.transport.authenticator import Authenticator
from paceline.transport.control import ControlClient, Malformed
from paceline.types.control import Assign, RunnerBeat, ToRunner
from paceline.types.control import Line as LineOrder
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.facts import RunnerFacts
from paceline.types.ids import NodeName, RunnerId, TaskId
from paceline.types.states import RunnerState
from paceline.types.tasks import TASK_KINDS, Connect, Drain, Fetch, Load, Stop, Task, WarmUp
from paceline.types.timing import DEFAULT_TIMING

PUMP_S = 0.05
"""How often a line is looked after when nothing arrives."""

ROWS_PER_STEP = 512
"""The most rows of a step: enough for products at full speed."""

log = structlog.get_logger("runner")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a runner is, for its whole life."""

    runner_id: RunnerId
    node: NodeName
    incarnation: str
    cluster_id: str
    pid: int


class Runner:
    """Entered by one thread only, except `stop`, which any thread and any signal may call."""

    def __init__(
        self,
        identity: Identity,
        home: Home,
        control: ControlClient[ToRunner],
        worker: Worker,
        supply: Supply,
        clock: Callable[[], float] = time.monotonic,
        *,
        grace_s: float = DEFAULT_TIMING.task_grace_s,
        beat_s: float = DEFAULT_TIMING.beat_s,
        host: str | None = None,
    ) -> None:
        """`host`: where other machines reach this one, if its lines have ranks on others."""
        self._identity = identity
        self._directory = home.runtime() if host is None else None
        self._host = host
        self._supply = supply
        self._control = control
        self._worker = worker
        self._clock = clock
        self._beat_s = beat_s
        self._mailbox = Mailbox(self._begin, self._hear, now=clock(), grace_s=grace_s)
        self._loaded: Loaded | None = None
        self._seat_task: Load | None = None
        self._rank: Rank | None = None
        self._broken = ""
        self._pulse = Pulse(clock)
        self._seconds_per_byte: float | None = None
        self._polled: list[zmq.Socket[bytes]] = []
        """The line's sockets that the poller listens to, beside its own."""
        self._poller = self._poller_of([])
        self._stop = False
        self._beat_due = 0.0
        self._beats = 0

    def stop(self) -> None:
        self._stop = True

    def run(self) -> None:
        """Until a stop task, a signal, or the parent's end."""
        self._worker.submit(seconds_per_byte, self._keep_pace)
        while not self._stop:
            try:
                self._turn()
            except Exception as error:  # a bug costs the line, not the process and its weights
                log.exception("turn_failed")
                time.sleep(PUMP_S)  # one that fails each time must not eat the machine
                self._leave_line(_cause(error))
                self._end_line(RunnerEvent.LINE_LOST, f"internal error: {_cause(error)}")
        self._leave_line("the runner stops")
        self._beat(self._clock(), force=True)

    def _keep_pace(self, seconds: float | None, error: BaseException | None) -> None:
        if error is not None:
            log.warning("pace_unknown", reason=_cause(error))
        self._seconds_per_byte = seconds
        self._hear()

    # --- one turn of the loop --------------------------------------------------------------------

    def _turn(self) -> None:
        self._wait()
        now = self._clock()
        # First what other ranks wait for.
        self._worker.collect()
        if self._rank is not None:
            self._rank.pump(now)
        self._read_control(now)
        self._follow_up(now)
        self._beat(self._clock())

    def _wait(self) -> None:
        sockets = self._rank.line.sockets if self._rank else []
        if sockets != self._polled:
            self._polled, self._poller = sockets, self._poller_of(sockets)
        now = self._clock()
        until = min(self._beat_due, self._mailbox.next_deadline or self._beat_due)
        timeout = PUMP_S if self._rank else until - now
        self._poller.poll(math.ceil(max(0.0, min(timeout, self._beat_s)) * 1000))

    def _poller_of(self, sockets: list[zmq.Socket[bytes]]) -> zmq.Poller:
        poller = zmq.Poller()
        for one in (self._control.socket, self._worker.wakeup, *sockets):
            poller.register(one, zmq.POLLIN)
        return poller

    def _read_control(self, now: float) -> None:
        for message in self._control.receive():
            match message:
                case Assign(task):
                    self._mailbox.deliver(task, now)
                case LineOrder() as order:
                    self._meet(order)
                case Malformed(fields, reason):
                    self._mailbox.unreadable(fields, reason)

    def _meet(self, order: LineOrder) -> None:
        """An order that makes no line costs the line, and not the orders that came with it."""
        rank = self._rank
        if rank is None or order.epoch != rank.line.epoch:
            return
        try:
            rank.line.meet(order)
        except Exception as error:
            log.warning("line_order_refused", reason=_cause(error), epoch=str(order.epoch))
            self._leave_line(_cause(error))
            self._end_line(RunnerEvent.LINE_LOST, f"its line cannot be met: {_cause(error)}")

    def _follow_up(self, now: float) -> None:
        """What tasks in hand wait for may have come true, or their time may be up."""
        timed_out = self._mailbox.tick(now)
        if isinstance(timed_out, Connect | WarmUp):
            self._leave_line(f"{type(timed_out).__name__.lower()} timed out")
        rank = self._rank
        if rank is None:
            return
        match self._mailbox.in_hand:
            case Connect(task_id=task_id) if rank.line.established:
                self._mailbox.complete(task_id, RunnerEvent.CONNECT_DONE, now)
            case WarmUp(task_id=task_id) if rank.warmed:
                self._mailbox.complete(task_id, RunnerEvent.WARM_UP_DONE, now)
                rank.open()
            case Drain(task_id=task_id) if rank.drained:
                self._mailbox.complete(task_id, RunnerEvent.DRAIN_DONE, now)

    # --- tasks begin -----------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        """Nothing that a task does may end the process: it fails instead, with its cause."""
        structlog.contextvars.bind_contextvars(epoch=str(task.epoch))
        if isinstance(task, Load):
            seat = task.seat
            structlog.contextvars.bind_contextvars(instance=seat.instance, rank=seat.rank)
        log.info("task_started", task=task.task_id, kind=TASK_KINDS[type(task)])
        try:
            self._do(task)
        except Exception as error:
            log.exception("task_error", task=task.task_id)
            self._mailbox.fail(task.task_id, _cause(error), self._clock())

    def _do(self, task: Task) -> None:
        match task:
            case Fetch():
                self._fetch(task)
            case Load():
                self._load(task)
            case Connect():
                self._connect(task)
            case WarmUp() if self._rank is not None:
                self._rank.warm_up()
            case Drain() if self._rank is not None:
                self._rank.drain()
            case Stop():
                self._mailbox.complete(task.task_id, None, self._clock())
                self.stop()

    def _fetch(self, task: Fetch) -> None:
        report = self._reporter(task.task_id)
        self._submit(
            task, lambda: fetch(self._supply, task, report, self._pulse), RunnerEvent.FETCH_DONE
        )

    def _load(self, task: Load) -> None:
        self._leave_line("another shard is loaded")
        self._loaded, self._seat_task = None, None  # the old shard's memory goes first
        report = self._reporter(task.task_id)

        def keep(loaded: Loaded) -> None:
            self._loaded, self._seat_task = loaded, task

        self._submit(
            task, lambda: load(self._supply, task, report, self._pulse), RunnerEvent.LOAD_DONE, keep
        )

    def _submit(
        self,
        task: Task,
        work: Callable[[], Any],
        done: RunnerEvent,
        keep: Callable[[Any], None] = lambda _: None,
    ) -> None:
        def then(result: Any, error: BaseException | None) -> None:
            if not self._mailbox.is_in_hand(task.task_id):
                return
            if error is not None:
                log.error("task_error", task=task.task_id, exc_info=error)
                self._mailbox.fail(task.task_id, _cause(error), self._clock())
                return
            keep(result)
            self._mailbox.complete(task.task_id, done, self._clock())

        self._worker.submit(work, then)

    def _reporter(self, task_id: TaskId) -> Report:
        """For the compute thread: how far a task is. Raises to end a task that is not wanted."""

        def report(share: float, words: str) -> None:
            if self._stop or not self._mailbox.is_in_hand(task_id):
                raise Unavailable("the task is not wanted any more")
            self._worker.post(lambda: self._mailbox.progress(task_id, share, words))

        return report

    def _connect(self, task: Connect) -> None:
        self._leave_line(f"epoch {task.epoch} begins")
        self._broken = ""
        seat, loaded = self._seat_task, self._loaded
        if seat is None or loaded is None or seat.seat != task.seat:
            held = "no seat" if seat is None else f"seat {seat.seat}"
            raise InvalidRequest(f"connect is for seat {task.seat}; what is loaded is for {held}")
        line = Line(
            task,
            self._clock(),
            directory=self._directory,
            host=self._host,
            kv_generation=loaded.kv.generation,
        )
        try:
            self._rank = Rank(
                line,
                loaded.compute,
                loaded.kv,
                self._worker,
                _driver(line, loaded, task),
                on_lost=lambda reason: self._end_line(RunnerEvent.LINE_LOST, reason),
                on_failed=lambda reason: self._end_line(RunnerEvent.ENGINE_FAILED, reason),
                clock=self._clock,
            )
        except Exception:
            line.close()
            raise

    # --- the line ends ---------------------------------------------------------------------------

    def _end_line(self, event: RunnerEvent, reason: str) -> None:
        self._rank, self._broken = None, reason
        if event is RunnerEvent.ENGINE_FAILED:
            self._loaded, self._seat_task = None, None
        self._mailbox.happen(event, reason, self._clock())

    def _leave_line(self, reason: str) -> None:
        if self._rank is not None:
            self._rank.close(reason)
            self._rank = None

    # --- facts -----------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Something changed that the controller should hear of now."""
        self._beat_due = 0.0

    def _beat(self, now: float, *, force: bool = False) -> None:
        if force or now >= self._beat_due:
            self._beat_due = now + self._beat_s
            self._beats += 1
            self._control.send(RunnerBeat(self._facts(now), number=self._beats))

    def _facts(self, now: float) -> RunnerFacts:
        identity, mailbox, rank, seat = self._identity, self._mailbox, self._rank, self._seat_task
        driver = rank.driver if rank else None
        return RunnerFacts(
            runner_id=identity.runner_id,
            node=identity.node,
            incarnation=identity.incarnation,
            cluster_id=identity.cluster_id,
            pid=identity.pid,
            state=mailbox.state if not self._stop else RunnerState.STOPPED,
            since_s=now - mailbox.since,
            seat=seat.seat if seat else None,
            model=seat.model if seat else None,
            shard=seat.shard if seat else None,
            dtype=seat.dtype if seat else None,
            kv_pages=seat.kv_pages if seat else 0,
            epoch=mailbox.epoch,
            offer=rank.line.offer if rank else None,
            line=rank.line.health(now, self._broken) if rank else None,
            load=driver.load if driver else None,
            work=self._pulse.look(self._worker.queued_since),
            tasks=mailbox.statuses,
            task_counts=mailbox.counts,
            numerics_id=self._loaded.compute.stage.numerics_id if self._loaded else None,
            seconds_per_byte=self._seconds_per_byte,
            measured_bytes=anonymous_bytes(identity.pid),
            strangers=Authenticator.strangers_here(),
            reason=mailbox.reason or self._broken,
        )


def _driver(line: Line, loaded: Loaded, task: Connect) -> Driver | None:
    if line.front is None:
        return None
    cost, depth = StepCost(ROWS_PER_STEP, ranks=task.world_size), Depth(task.world_size)
    scheduler = Scheduler(
        pages=loaded.kv_pages,
        max_context=loaded.max_context,
        vocab_size=loaded.vocab_size,
        batches_in_flight=depth.batches,
        eos_ids=loaded.eos_ids,
        row_budget=ROWS_PER_STEP,
        guess_rows=GUESS_ROWS,
        cost=cost,
    )
    return Driver(scheduler, cost, depth, line.front)


def _cause(error: BaseException) -> str:
    return str(error) or type(error).__name__
