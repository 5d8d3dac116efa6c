"""A runner process, as far as anyone outside can tell: the real mailbox, and work that takes time,
fails, gets stuck, or hangs with all of the process."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from paceline.lifecycle import RunnerEvent
from paceline.process.exits import ChildExit, exit_sentence
from paceline.runner.mailbox import Mailbox
from paceline.runner.pulse import Pulse
from paceline.types.control import Assign, Line, RunnerBeat
from paceline.types.facts import RunnerFacts
from paceline.types.ids import Epoch, RunnerId
from paceline.types.states import RunnerState
from paceline.types.tasks import Connect, Drain, Fetch, Load, Stop, Task, WarmUp
from tests.simulation.line import SimRank
from tests.simulation.network import End

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

BEAT_S = 0.5
PROGRESS_STEPS = 3


class Cause(StrEnum):
    """Why a process ended."""

    STOPPED = "an accepted stop"
    KILLED = "an order of the controller"
    CRASHED = "a fault"
    NODE_LOST = "the loss of its node"


class SimRunner:
    """Its parent holds it as `paceline.process.spawn.Child` is held: `pid`, `poll`, `terminate`."""

    def __init__(self, world: World, node: SimNode, name: RunnerId) -> None:
        self.world = world
        self.node = node
        self.host = node.host
        self.name = name
        self.pid = next(world.pids)
        self.hung = False
        self.stuck = False
        self.stubborn_s = 0.0
        """How long the kernel takes to end it."""
        self.mailbox: Mailbox | None = None
        self.pulse = Pulse(world.clock)
        self.seat_task: Load | None = None
        self.rank: SimRank | None = None
        self.exit: ChildExit | None = None
        self._end: End | None = None
        self._asked = ""
        self._broken = ""
        self._leaving = False
        self._beats = 0
        self._beat_due = self._turn_at = math.inf
        self.host.after(world.random.uniform(0.2, 1.5), self._start)

    # --- for everyone ----------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.exit is None

    @property
    def is_ending(self) -> bool:
        """Its parent was told to end it."""
        return bool(self._asked)

    @property
    def pumps(self) -> bool:
        """Its loop runs."""
        return self.exit is None and self.mailbox is not None and not self.hung and self.host.runs

    @property
    def works(self) -> bool:
        """It computes."""
        return self.pumps and not self.stuck

    def stick(self) -> bool:
        """What it computes now never ends, and keeps the compute thread for ever. False if it
        computes nothing."""
        loads = self.state in (RunnerState.FETCHING, RunnerState.LOADING)
        if not self.works or not (loads or self.rank is not None):
            return False
        self.stuck = True
        if not loads:
            self.pulse.begin("step")
        return True

    @property
    def state(self) -> RunnerState | None:
        return self.mailbox.state if self.mailbox else None

    @property
    def epoch(self) -> Epoch | None:
        return self.mailbox.epoch if self.mailbox else None

    @property
    def ending(self) -> bool:
        """Its parent has asked it to end, and it has not yet."""
        return bool(self._asked) and self.exit is None

    def look_soon(self) -> None:
        """Something came or changed: its loop turns now."""
        self._wake(self.world.clock.now)

    # --- for its parent --------------------------------------------------------------------------

    def poll(self) -> ChildExit | None:
        return self.exit

    def terminate(self, grace_s: float, reason: str) -> None:
        if self.exit is not None:
            return
        if not self._asked:
            self._asked = reason
            self.host.after(self.world.random.uniform(0.01, 0.3), self._heed_term)
        self.host.at(self.world.clock.now + grace_s + self.stubborn_s, self._be_killed)

    def _heed_term(self) -> None:
        if self.pumps and not self.stuck and not self.stubborn_s:
            self._say_goodbye()
            self.end(0, Cause.KILLED)

    def _be_killed(self) -> None:
        self.end(-9, Cause.KILLED)

    def end(self, code: int, cause: Cause) -> None:
        if self.exit is not None:
            return
        sentence = exit_sentence(code, (), asked=self._asked, oom_killed=False)
        self.exit = ChildExit(pid=self.pid, code=code, sentence=sentence, log_tail=(), lived_s=0.0)
        self.world.note("{} ended: {}", self.name, cause)
        self._leave_line("the process is gone")
        if self._end is not None:
            self.world.network.leave(self.identity, self._end)
        self.world.watch.ended(self, cause)
        if cause is not Cause.NODE_LOST:
            self.node.look_soon()

    # --- its loop --------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        return f"runner:{self.name}"

    def _start(self) -> None:
        if self.exit is None and not self.hung and not self._asked:
            self.mailbox = Mailbox(self._begin, self._hear, now=self.world.clock.now)
            self._end = self.world.network.join(self.identity, self.host, self._take)
            self._hear()

    def _hear(self) -> None:
        self._beat_due = 0.0
        self.look_soon()

    def _wake(self, at: float) -> None:
        if at < self._turn_at:
            self._turn_at = at
            self.host.at(at, self._turn, at)

    def _turn(self, planned: float) -> None:
        if planned != self._turn_at:
            return  # an earlier turn has taken its place
        self._turn_at = math.inf
        if self.mailbox is None or not self.pumps:
            return
        now = self.world.clock.now
        self._pump()
        self._follow_up(self.mailbox, now)
        if self._leaving:
            self._say_goodbye()
            self.end(0, Cause.STOPPED)
            return
        if now >= self._beat_due:
            self._beat(now)
        self._wake(max(now, min(self._beat_due, self.mailbox.next_deadline or math.inf)))

    def _pump(self) -> None:
        if self.rank is not None:
            lost = self.rank.pump()
            if lost:
                self.lose_line(RunnerEvent.LINE_LOST, lost)

    def _follow_up(self, mailbox: Mailbox, now: float) -> None:
        timed_out = mailbox.tick(now)
        if isinstance(timed_out, Connect | WarmUp):
            self._leave_line(f"{type(timed_out).__name__} timed out")
        rank = self.rank
        if rank is None:
            return
        match mailbox.in_hand:
            case Connect(task_id=task_id) if rank.established:
                mailbox.complete(task_id, RunnerEvent.CONNECT_DONE, now)
            case WarmUp(task_id=task_id) if rank.steps and not (
                rank.driver and rank.driver.warming
            ):
                mailbox.complete(task_id, RunnerEvent.WARM_UP_DONE, now)
                if rank.driver is not None:
                    rank.driver.refusing = ""
            case Drain(task_id=task_id) if rank.driver is None or not rank.driver.held:
                mailbox.complete(task_id, RunnerEvent.DRAIN_DONE, now)

    def _take(self, _: str, message: Any) -> None:
        if self.exit is not None or self.hung or self.mailbox is None:
            return
        if isinstance(message, Line):
            if self.rank is not None and self.rank.epoch == message.epoch:
                self.rank.meet(message)
                self.look_soon()
        elif isinstance(message, Assign):
            self.world.watch.delivered(self, message.task)

    def deliver(self, task: Task) -> None:
        assert self.mailbox is not None
        self.mailbox.deliver(task, self.world.clock.now)

    # --- what tasks do ---------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        assert self.mailbox is not None
        self.world.note("{} begins {}", self.name, task.task_id)
        self.world.watch.began(self, task)
        match task:
            case Fetch():
                self._work(task, RunnerEvent.FETCH_DONE, 0.1, 0.6)
            case Load():
                self._leave_line("another shard is loaded")
                self.seat_task = None
                self._work(task, RunnerEvent.LOAD_DONE, 0.2, 2.0)
            case Connect():
                self._connect(self.mailbox, task)
            case WarmUp() if self.rank is not None and self.rank.driver is not None:
                self.rank.driver.warming = True
            case Drain() if self.rank is not None and self.rank.driver is not None:
                self.rank.driver.refusing = "the instance is being drained"
            case Stop():
                self.mailbox.complete(task.task_id, None, self.world.clock.now)
                self._leaving = True

    def _work(self, task: Fetch | Load, done: RunnerEvent, least_s: float, most_s: float) -> None:
        """In the compute thread: some progress, and then the end."""
        seconds = self.world.random.uniform(least_s, most_s)
        if isinstance(task, Load) and not self.stuck:
            self.pulse.begin("load")
        self.host.after(seconds / PROGRESS_STEPS, self._progress, task, done, seconds, 1)

    def _progress(self, task: Fetch | Load, done: RunnerEvent, seconds: float, step: int) -> None:
        mailbox, now = self.mailbox, self.world.clock.now
        if mailbox is None or not self.works or not mailbox.is_in_hand(task.task_id):
            return
        self.pulse.tick()
        if step < PROGRESS_STEPS:
            mailbox.progress(task.task_id, step / PROGRESS_STEPS)
            self.host.after(seconds / PROGRESS_STEPS, self._progress, task, done, seconds, step + 1)
            return
        self.pulse.end()
        if self.world.random.random() < self.world.task_failures:
            mailbox.fail(task.task_id, "the disk said no", now)
        else:
            if isinstance(task, Load):
                self.seat_task = task
            mailbox.complete(task.task_id, done, now)

    def _connect(self, mailbox: Mailbox, task: Connect) -> None:
        self._leave_line(f"epoch {task.epoch} begins")
        self._broken = ""
        seat = self.seat_task
        if seat is None or seat.seat != task.seat:
            mailbox.fail(task.task_id, f"connect is for {task.seat}", self.world.clock.now)
            return
        door = f"{self.name}@{task.epoch}/{next(self.world.numbers)}"
        self.rank = SimRank(self, task, door, self.world.plane)

    def lose_line(self, event: RunnerEvent, reason: str) -> None:
        """The line is of no more use, or with ENGINE_FAILED the shard is not either."""
        assert self.mailbox is not None
        self.world.note("{} leaves its line: {}", self.name, reason)
        self._leave_line(reason)
        self._broken = reason
        if event is RunnerEvent.ENGINE_FAILED:
            self.seat_task = None
        self.mailbox.happen(event, reason, self.world.clock.now)

    def _leave_line(self, reason: str) -> None:
        if self.rank is not None:
            self.rank.close(reason)
            self.rank = None

    # --- facts -----------------------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        self._leave_line("the runner stops")
        self._leaving = True
        self._beat(self.world.clock.now)

    def _beat(self, now: float) -> None:
        self._beat_due = now + BEAT_S * self.host.slowness
        self._beats += 1
        beat = RunnerBeat(self.facts(now), number=self._beats)
        self.world.network.send(self.host.name, self.identity, "controller", beat)

    def facts(self, now: float) -> RunnerFacts:
        mailbox, rank, seat = self.mailbox, self.rank, self.seat_task
        assert mailbox is not None
        driver = rank.driver if rank else None
        return RunnerFacts(
            runner_id=self.name,
            node=self.node.name,
            incarnation=self.node.incarnation,
            cluster_id=self.world.cluster_id,
            pid=self.pid,
            state=RunnerState.STOPPED if self._leaving else mailbox.state,
            since_s=now - mailbox.since,
            seat=seat.seat if seat else None,
            model=seat.model if seat else None,
            shard=seat.shard if seat else None,
            dtype=seat.dtype if seat else None,
            kv_pages=seat.kv_pages if seat else 0,
            epoch=mailbox.epoch,
            offer=rank.offer if rank else None,
            line=rank.health if rank else None,
            load=driver.load if driver else None,
            work=self.pulse.look(),
            tasks=mailbox.statuses,
            task_counts=mailbox.counts,
            numerics_id="n" if seat else None,
            reason=mailbox.reason or self._broken,
        )
