"""Filling the seats of a placed instance: a runner on each, and on each runner its shard. For every
stage that a seat may be found in, the next thing to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from paceline.controller.actions import Action, LaunchRunner, Order, Take, TellAgain
from paceline.controller.book import RunnerBook, TaskBook, reservation
from paceline.controller.ledger import Reservation
from paceline.controller.nodes import IN_A_LINE
from paceline.controller.passing import Pass
from paceline.controller.seats import SeatSeen, Stage, lacks_memory, stuck_words
from paceline.controller.sources import sources_of
from paceline.controller.spares import await_start, holds, kill, make_room, spare_for
from paceline.planner import human_bytes
from paceline.types.ids import RunnerId, Seat
from paceline.types.states import RunnerState, TaskKind, TaskState
from paceline.types.tasks import Fetch, Load

RENEW_AFTER = 4
"""Failures of a seat in a row, from which on a failed task costs its runner the process."""


def fill(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """The next thing to do for a seat."""
    step = _STEPS.get(seat.stage)
    if step is not None:
        yield from step(p, seat)


def tend(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """The same while its instance waits: who hangs there is ended, and nothing new is begun."""
    if seat.stage not in (Stage.MISSING, Stage.EMPTY):
        yield from fill(p, seat)


def _man(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    plan, inst = seat.seat.plan, seat.inst
    if not p.is_ready(plan.node):
        return
    spare = spare_for(p, inst, seat.seat)
    p.wake_at(seat.seat.patience.not_before)
    if seat.seat.patience.not_before > p.now and not _holds(p, seat, spare):
        return
    room = p.ledger.room_for_seat(inst, plan.node) + (p.ledger.held(spare) if spare else 0)
    if room < plan.memory_bytes:
        yield from make_room(p, inst, plan.node)
    elif spare is not None:
        yield _take(p, seat, spare)
    else:
        yield _launch(p, seat)


def _holds(p: Pass, seat: SeatSeen, runner: RunnerId | None) -> bool:
    seen = p.facts.runners.get(runner) if runner else None
    return seen is not None and holds(seat.inst, seat.seat, seen)


def _take(p: Pass, seat: SeatSeen, spare: RunnerId) -> Take:
    plan, seen = seat.seat.plan, p.facts.runners.get(spare)
    p.taken.add(spare)
    held = p.ledger.held(spare)
    memory = max(held, plan.memory_bytes)
    p.ledger.reserve(Reservation(plan.node, memory - held, seat.inst.id, spare))
    state = "it is still starting" if seen is None else f"it is {seen.facts.state}"
    keeps = "with its layers" if _holds(p, seat, spare) else state
    return Take(
        sentence=f"{spare} on {plan.node} takes {seat.inst.id}/{plan.rank}, {keeps}; "
        f"{human_bytes(memory)} reserved",
        instance=seat.inst.id,
        rank=plan.rank,
        runner=spare,
        node=plan.node,
        incarnation=p.facts.nodes[plan.node].facts.incarnation,
        memory_bytes=memory,
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
    yield from await_start(p, p.book.runners[seat.seat.runner])


def _replace_silent(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """A process that its living node lists and that says nothing is hung. If the node is silent
    as well, the loss of the node is what decides."""
    if p.is_ready(seat.seat.plan.node) and seat.runner is not None:
        silence_s = p.facts.silence_s(seat.runner.heard_at, p.now)
        why = f"its process lives but has said nothing for {silence_s:.1f} s"
        yield from kill(p, p.book.runners[seat.runner.facts.runner_id], why, grace_s=0.0)


def _replace_stuck(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    assert seat.seat.runner is not None  # the stage says so
    why = f"it is stuck: {stuck_words(seat)}"
    yield from kill(p, p.book.runners[seat.seat.runner], why, grace_s=0.0)


def _replace_drained(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    assert seat.seat.runner is not None  # the stage says so
    why = f"it was drained from outside, and {seat.inst.id} is wanted"
    yield from kill(p, p.book.runners[seat.seat.runner], why)


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
    if lacks_memory(p, seat):
        yield from _reserve(p, p.book.runners[facts.runner_id])
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


def _reserve(p: Pass, runner: RunnerBook) -> Iterator[Action]:
    p.wake_at(runner.sent_at + p.timing.resend_s)
    if p.now - runner.sent_at >= p.timing.resend_s:
        yield TellAgain(
            sentence=f"{runner.node} has not reserved the memory of {runner.id}; told again",
            runner=runner.id,
            order=reservation(runner, p.book.term),
        )


def _has_files(seat: SeatSeen, fetch: TaskBook | None) -> bool:
    """Known by a fetch that is complete, or because it holds other layers of the model. They may
    be those of another shard: what a load lacks it fetches itself."""
    model = seat.inst.wish.model
    if seat.runner is not None and seat.runner.facts.model == model:
        return True
    if fetch is None or fetch.state is not TaskState.COMPLETE:
        return False
    return isinstance(fetch.task, Fetch) and fetch.task.model == model


def _order_fetch(p: Pass, seat: SeatSeen) -> Order:
    plan, model = seat.seat.plan, seat.inst.wish.model
    found = sources_of(p.facts, model, p.ready, plan.node)
    task = Fetch(
        task_id=p.task_name(TaskKind.FETCH),
        epoch=p.current_epoch(),
        deadline_s=p.timing.deadline_s(TaskKind.FETCH),
        model=model,
        shard=plan.shard,
        digest=found.digest if found else "",
        sources=found.sources if found else (),
    )
    sentence = f"{seat} of {seat.inst.id} is asked to have {model} on disk"
    return _order(seat, task, sentence)


def _order_load(p: Pass, seat: SeatSeen) -> Order:
    plan, inst = seat.seat.plan, seat.inst
    found = sources_of(p.facts, inst.wish.model, p.ready, plan.node)
    task = Load(
        task_id=p.task_name(TaskKind.LOAD),
        epoch=p.current_epoch(),
        deadline_s=p.timing.deadline_s(TaskKind.LOAD),
        seat=Seat(inst.id, plan.rank),
        model=inst.wish.model,
        shard=plan.shard,
        dtype=inst.dtype,
        kv_pages=plan.kv_pages,
        memory_bytes=plan.memory_bytes,
        digest=found.digest if found else "",
        sources=found.sources if found else (),
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
    limit_s = p.timing.deadline_s(kind)
    timed_out = task is not None and task.state is TaskState.TIMED_OUT
    if timed_out or (task is None and facts.since_s > limit_s):
        runner = p.book.runners[facts.runner_id]
        yield from kill(p, runner, f"{facts.state} without progress for {limit_s:.0f} s")


def _live_or_last(p: Pass, seat: SeatSeen, kind: TaskKind) -> TaskBook | None:
    return p.latest(seat.seat.runner, kind)


_STEPS: dict[Stage, Callable[[Pass, SeatSeen], Iterator[Action]]] = {
    Stage.MISSING: _man,
    Stage.LEAVING: _see_off,
    Stage.STARTING: _await_start,
    Stage.SILENT: _replace_silent,
    Stage.STUCK: _replace_stuck,
    Stage.DRAINED: _replace_drained,
    Stage.EMPTY: _order_shard,
    Stage.FILLING: _end_hung_load,
}
