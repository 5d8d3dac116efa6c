"""Filling the seats of a placed instance: a runner on each, and on each runner its shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec

from paceline.controller.actions import Action, LaunchRunner, Order, Take, TellAgain
from paceline.controller.book import InstanceBook, SeatBook, TaskBook
from paceline.controller.facts import RunnerSeen
from paceline.controller.ledger import Reservation
from paceline.controller.nodes import IN_A_LINE, NodeState, is_silent
from paceline.controller.passing import Pass
from paceline.controller.placing import memory_of
from paceline.controller.spares import holds, kill, make_room, spare_for
from paceline.planner import human_bytes
from paceline.types.control import Launch
from paceline.types.ids import Seat
from paceline.types.states import RunnerState, TaskKind, TaskState
from paceline.types.tasks import Fetch, Load

RENEW_AFTER = 4
"""Failures of a seat in a row, from which on a failed task costs its runner the process."""


class Stage(StrEnum):
    MISSING = "missing"
    """No runner sits there."""
    LEAVING = "leaving"
    """Its runner is being ended."""
    STARTING = "starting"
    """Launched, not heard of yet."""
    SILENT = "silent"
    """Its process is there and says nothing."""
    EMPTY = "empty"
    """Its runner waits for this shard."""
    FILLING = "filling"
    """Its runner fetches or loads."""
    FILLED = "filled"
    """Its runner holds this shard, in a line or out of it."""


class SeatSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A seat as it is found in this pass."""

    inst: InstanceBook
    seat: SeatBook
    stage: Stage
    runner: RunnerSeen | None = None

    @property
    def rank(self) -> int:
        return self.seat.plan.rank

    def __str__(self) -> str:
        who = f"{self.seat.runner} on " if self.seat.runner else ""
        return f"rank {self.rank} ({who}{self.seat.plan.node})"


def look(p: Pass, inst: InstanceBook) -> list[SeatSeen]:
    return [
        SeatSeen(inst=inst, seat=seat, stage=_stage(p, inst, seat), runner=_seen(p, seat))
        for seat in inst.seats
    ]


def why_not_here(p: Pass, inst: InstanceBook, seen: list[SeatSeen]) -> list[str]:
    """Sentences about the seats that cannot be filled where they are; empty if all can."""
    missing = [each for each in seen if each.stage is Stage.MISSING]
    return [sentence for each in missing if (sentence := _obstacle(p, inst, each.seat))]


def fill(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """The next thing to do for a seat."""
    step = _STEPS.get(seat.stage)
    if step is not None:
        yield from step(p, seat)


def why_unfilled(p: Pass, seat: SeatSeen) -> str:
    """For people: what this seat waits for."""
    trouble = _last_trouble(p, seat)
    again_s = seat.seat.patience.not_before - p.now
    pause = f", tried again in {again_s:.0f} s" if again_s > 0 else ""
    loading = p.book.latest(seat.seat.runner, TaskKind.LOAD) if seat.seat.runner else None
    percent = f"{100 * (loading.progress if loading else 0):.0f} %"
    state = seat.runner.facts.state if seat.runner else ""
    says = {
        Stage.MISSING: f"waits for a runner{pause}",
        Stage.LEAVING: "waits for its runner to end before another is launched",
        Stage.STARTING: "is starting its process",
        Stage.SILENT: "says nothing, though its process is there",
        Stage.EMPTY: f"waits for its shard{pause}",
        Stage.FILLING: f"is {state} ({percent})",
        Stage.FILLED: f"holds its layers and is {state}",
    }
    return f"{seat} {says[seat.stage]}{trouble}"


def _seen(p: Pass, seat: SeatBook) -> RunnerSeen | None:
    return p.facts.runners.get(seat.runner) if seat.runner else None


def _stage(p: Pass, inst: InstanceBook, seat: SeatBook) -> Stage:
    known = p.book.runners.get(seat.runner) if seat.runner else None
    seen = _seen(p, seat)
    if known is None:
        return Stage.MISSING
    if known.kill or (seen and seen.facts.state is RunnerState.STOPPED):
        return Stage.LEAVING
    if seen is None:
        return Stage.STARTING
    if is_silent(p.facts, p.book, known.id, p.now, p.timing):
        return Stage.SILENT
    if seen.facts.state in (RunnerState.FETCHING, RunnerState.LOADING):
        return Stage.FILLING
    able = seen.facts.state is RunnerState.LOADED or seen.facts.state in IN_A_LINE
    return Stage.FILLED if able and holds(inst, seat, seen) else Stage.EMPTY


def _obstacle(p: Pass, inst: InstanceBook, seat: SeatBook) -> str:
    """Why the seat can get no runner where it is, however long one waits."""
    plan = seat.plan
    if p.nodes.get(plan.node, NodeState.LOST) is NodeState.LOST:
        return f"rank {plan.rank} needs {plan.node}, which is lost"
    free = p.ledger.budget(inst, plan.node).free_bytes
    others = sum(s.plan.memory_bytes for s in inst.seats if s.plan.node == plan.node) - (
        plan.memory_bytes
    )
    if plan.memory_bytes + others > free:
        need, room = human_bytes(plan.memory_bytes), human_bytes(max(free - others, 0))
        return f"rank {plan.rank} needs {need} on {plan.node}, which has {room} free"
    return ""


# --- the next step, by stage ---------------------------------------------------------------------


def _man(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    plan, inst = seat.seat.plan, seat.inst
    if not p.is_ready(plan.node):
        return
    spare = spare_for(p, inst, seat.seat)
    if spare is not None:
        yield _take(p, seat, spare)
        return
    p.wake_at(seat.seat.patience.not_before)
    if seat.seat.patience.not_before > p.now:
        return
    if p.ledger.room_for_seat(inst, plan.node) < plan.memory_bytes:
        yield from make_room(p, inst, plan.node)
        return
    yield _launch(p, seat)


def _take(p: Pass, seat: SeatSeen, spare: RunnerSeen) -> Take:
    facts, plan = spare.facts, seat.seat.plan
    p.taken.add(facts.runner_id)
    keeps = "with its layers" if holds(seat.inst, seat.seat, spare) else f"it is {facts.state}"
    return Take(
        sentence=f"{facts.runner_id} on {plan.node} takes {seat.inst.id}/{plan.rank}, {keeps}",
        instance=seat.inst.id,
        rank=plan.rank,
        runner=facts.runner_id,
        node=plan.node,
        incarnation=p.facts.nodes[plan.node].facts.incarnation,
        memory_bytes=memory_of(p, plan.node, facts.runner_id) or plan.memory_bytes,
    )


def _launch(p: Pass, seat: SeatSeen) -> LaunchRunner:
    plan, runner = seat.seat.plan, p.runner_name()
    p.ledger.reserve(Reservation(plan.node, plan.memory_bytes, seat.inst.id, runner))
    return LaunchRunner(
        sentence=f"{runner} is launched on {plan.node} for {seat.inst.id}/{plan.rank}, "
        f"{human_bytes(plan.memory_bytes)} reserved",
        instance=seat.inst.id,
        rank=plan.rank,
        runner=runner,
        node=plan.node,
        incarnation=p.facts.nodes[plan.node].facts.incarnation,
        memory_bytes=plan.memory_bytes,
    )


def _await_start(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    assert seat.seat.runner is not None  # the stage says so
    runner = p.book.runners[seat.seat.runner]
    p.wake_at(runner.ordered_at + p.timing.start_s)
    if p.now - runner.ordered_at >= p.timing.start_s:
        yield from kill(p, runner, f"not a word from it within {p.timing.start_s:.0f} s")
    elif not runner.in_inventory and p.now - runner.sent_at >= p.timing.resend_s:
        yield TellAgain(
            sentence=f"{runner.node} does not list {runner.id} yet; told again",
            runner=runner.id,
            order=Launch(
                runner_id=runner.id,
                incarnation=runner.incarnation,
                memory_bytes=runner.memory_bytes,
            ),
        )


def _replace_silent(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """A process that its living node lists and that says nothing is hung. If the node is silent
    as well, the loss of the node is what decides."""
    if p.is_ready(seat.seat.plan.node) and seat.runner is not None:
        silence_s = p.facts.silence_s(seat.runner.heard_at, p.now)
        why = f"its process lives but has said nothing for {silence_s:.1f} s"
        yield from kill(p, p.book.runners[seat.runner.facts.runner_id], why, grace_s=0.0)


def _see_off(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    assert seat.seat.runner is not None  # the stage says so
    yield from kill(p, p.book.runners[seat.seat.runner], "it has stopped, and its process is there")


def _order_shard(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    assert seat.runner is not None  # the stage says so
    facts = seat.runner.facts
    if facts.state in IN_A_LINE:
        runner = p.book.runners[facts.runner_id]
        yield from kill(p, runner, "it is in a line with other layers than its seat has now")
        return
    fetch, load = (_live_or_last(p, seat, kind) for kind in (TaskKind.FETCH, TaskKind.LOAD))
    given = [task for task in (fetch, load) if task is not None]
    if any(not task.state.is_terminal for task in given):
        return
    failures = seat.seat.patience.backoff.ends
    if failures >= RENEW_AFTER and any(task.state is TaskState.FAILED for task in given):
        runner = p.book.runners[facts.runner_id]
        yield from kill(p, runner, f"its seat failed {failures} times in a row")
        return
    p.wake_at(seat.seat.patience.not_before)
    if seat.seat.patience.not_before <= p.now:
        yield _order_load(p, seat) if _has_files(seat, fetch) else _order_fetch(p, seat)


def _has_files(seat: SeatSeen, fetch: TaskBook | None) -> bool:
    """Known by a fetch that is complete, or because it holds other layers of the model."""
    model = seat.inst.wish.model
    if seat.runner is not None and seat.runner.facts.model == model:
        return True
    if fetch is None or fetch.state is not TaskState.COMPLETE:
        return False
    return isinstance(fetch.task, Fetch) and fetch.task.model == model


def _order_fetch(p: Pass, seat: SeatSeen) -> Order:
    model = seat.inst.wish.model
    task = Fetch(
        task_id=p.task_name(TaskKind.FETCH),
        epoch=p.current_epoch(),
        deadline_s=p.timing.deadlines_s[TaskKind.FETCH],
        model=model,
    )
    sentence = f"{seat} of {seat.inst.id} is asked to have {model} on disk"
    return _order(seat, task, sentence)


def _order_load(p: Pass, seat: SeatSeen) -> Order:
    plan, inst = seat.seat.plan, seat.inst
    task = Load(
        task_id=p.task_name(TaskKind.LOAD),
        epoch=p.current_epoch(),
        deadline_s=p.timing.deadlines_s[TaskKind.LOAD],
        seat=Seat(inst.id, plan.rank),
        model=inst.wish.model,
        shard=plan.shard,
        dtype=inst.dtype,
        kv_pages=plan.kv_pages,
        memory_bytes=plan.memory_bytes,
    )
    layers = f"layers {plan.shard.start}–{plan.shard.stop - 1}"
    return _order(seat, task, f"{seat} of {inst.id} is asked to load {layers}")


def _order(seat: SeatSeen, task: Fetch | Load, sentence: str) -> Order:
    assert seat.runner is not None
    return Order(
        sentence=sentence,
        instance=seat.inst.id,
        runner=seat.runner.facts.runner_id,
        task=task,
    )


def _end_hung_load(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """A fetch or load that the ledger has timed out while the runner is still at it."""
    assert seat.runner is not None
    facts = seat.runner.facts
    kind = TaskKind.LOAD if facts.state is RunnerState.LOADING else TaskKind.FETCH
    task = _live_or_last(p, seat, kind)
    limit_s = p.timing.deadlines_s[kind]
    timed_out = task is not None and task.state is TaskState.TIMED_OUT
    if timed_out or (task is None and facts.since_s > limit_s):
        runner = p.book.runners[facts.runner_id]
        yield from kill(p, runner, f"{facts.state} without progress for {limit_s:.0f} s")


def _live_or_last(p: Pass, seat: SeatSeen, kind: TaskKind) -> TaskBook | None:
    return p.book.latest(seat.seat.runner, kind) if seat.seat.runner else None


_STEPS: dict[Stage, Callable[[Pass, SeatSeen], Iterator[Action]]] = {
    Stage.MISSING: _man,
    Stage.LEAVING: _see_off,
    Stage.STARTING: _await_start,
    Stage.SILENT: _replace_silent,
    Stage.EMPTY: _order_shard,
    Stage.FILLING: _end_hung_load,
}


def _last_trouble(p: Pass, seat: SeatSeen) -> str:
    return f"; {seat.seat.trouble}" if seat.seat.trouble and seat.stage is not Stage.FILLED else ""
