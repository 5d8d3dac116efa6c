"""From a wish to seats: adopt what lives, else ask the planner, else wait and say for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paceline.controller.actions import Action, Adopt, Explain, Place, Pull, Wait
from paceline.controller.book import InstanceBook
from paceline.controller.facts import ModelSeen, RunnerSeen
from paceline.controller.ledger import Reservation
from paceline.controller.passing import Pass
from paceline.planner import plan
from paceline.types.errors import PacelineError
from paceline.types.ids import Epoch, NodeName, RunnerId
from paceline.types.instance import NoPlacement, Placement, SeatPlan
from paceline.types.model import ModelFacts
from paceline.types.states import RunnerState


def place(p: Pass, inst: InstanceBook) -> Iterator[Action]:
    """For an instance without seats."""
    adoption = _adoption(p, inst)
    if adoption is not None:
        yield adoption
    elif inst.inherited and p.is_settling:
        p.wake_at(p.facts.started_at + p.timing.settle_s)
        yield from explain(inst, ("waiting: looking for its runners from before the restart",))
    else:
        yield from _planned(p, inst)


def replace(p: Pass, inst: InstanceBook, missing: Sequence[str]) -> Iterator[Action]:
    """For an instance some of whose seats cannot be filled where they are; `missing` says why."""
    yield from _planned(p, inst, tuple(missing))


def explain(inst: InstanceBook, reasons: tuple[str, ...]) -> Iterator[Action]:
    if reasons != inst.reasons:
        yield Explain(
            sentence=f"{inst.id}: {'; '.join(reasons)}", instance=inst.id, reasons=reasons
        )


def _planned(p: Pass, inst: InstanceBook, missing: tuple[str, ...] = ()) -> Iterator[Action]:
    seen = p.facts.models.get(inst.wish.model, ModelSeen())
    if seen.facts is None:
        yield from _without_model(p, inst, seen)
        return
    budgets = tuple(p.ledger.budget(inst, name) for name in sorted(p.nodes) if p.is_ready(name))
    asked = (seen.facts.digest, inst.wish, budgets, missing)
    if asked == inst.asked:
        return
    try:
        answer = plan(seen.facts, budgets, inst.wish, sticky=inst.placement)
    except PacelineError as error:
        answer = NoPlacement(reasons=(str(error),))
    if isinstance(answer, NoPlacement):
        reasons = tuple(f"waiting: {reason}" for reason in (*missing, *answer.reasons))
        sentence = f"{inst.id} ({inst.wish.model}) waits: {'; '.join((*missing, *answer.reasons))}"
        yield Wait(sentence=sentence, instance=inst.id, reasons=reasons, asked=asked)
        return
    yield _placed(p, inst, seen.facts, answer, missing)


def _without_model(p: Pass, inst: InstanceBook, seen: ModelSeen) -> Iterator[Action]:
    model = inst.wish.model
    if seen.pulling:
        reason = f"waiting: pulling {model}: {seen.pulling}"
    elif seen.failure and p.now < seen.retry_at:
        p.wake_at(seen.retry_at)
        again_s = seen.retry_at - p.now
        reason = f"waiting: {model} cannot be used: {seen.failure} (tried again in {again_s:.0f} s)"
    else:
        reason = f"waiting: {model} is not on this machine yet"
        yield Pull(
            sentence=f"{inst.id} needs {model}, which is not on disk: pulling it",
            instance=inst.id,
            model=model,
        )
    if inst.state == "wanted":
        yield Wait(
            sentence=f"{inst.id} ({model}) waits for its model",
            instance=inst.id,
            reasons=(reason,),
            asked=None,
        )
    else:
        yield from explain(inst, (reason,))


def _placed(
    p: Pass, inst: InstanceBook, model: ModelFacts, to: Placement, missing: tuple[str, ...]
) -> Place:
    runners = _keep(inst, to)
    for seat, runner in zip(to.seats, runners, strict=True):
        if runner is None:
            p.ledger.reserve(Reservation(seat.node, seat.memory_bytes, inst.id, None))
    where = ", ".join(
        f"rank {seat.rank} on {seat.node} (layers {seat.shard.start}–{seat.shard.stop - 1})"
        for seat in to.seats
    )
    because = "; ".join((*missing, *to.reasons))
    sentence = f"{inst.id} ({model.name}) is placed: {where}; {because}"
    return Place(sentence=sentence, instance=inst.id, placement=to, runners=runners)


def _keep(inst: InstanceBook, to: Placement) -> tuple[RunnerId | None, ...]:
    """For each new seat the runner that sat on its node with the same layers, if any. Others are
    found as spare runners when the seat is filled."""
    old = {(seat.plan.node, seat.plan.shard): seat.runner for seat in inst.seats}
    return tuple(old.get((seat.node, seat.shard)) for seat in to.seats)


# --- adoption ------------------------------------------------------------------------------------


def _adoption(p: Pass, inst: InstanceBook) -> Adopt | None:
    """A whole line of living runners on the seats of this instance, if there is one."""
    line = _line_of_survivors(p, inst)
    if not line:
        return None
    seats = tuple(_seat_plan(p, rank, seen) for rank, seen in enumerate(line))
    dtype = line[0].facts.dtype or ""
    epoch = _standing_epoch(line)
    state = f"its line of epoch {epoch} stands" if epoch else "its line is to be made anew"
    names = ", ".join(f"{s.facts.runner_id} on {s.facts.node}" for s in line)
    reasons = ("adopted from before the controller's restart",)
    return Adopt(
        sentence=f"{inst.id} ({inst.wish.model}) lives: adopted {names}; {state}",
        instance=inst.id,
        placement=Placement(seats=seats, dtype=dtype, reasons=reasons),
        runners=tuple(seen.facts.runner_id for seen in line),
        incarnations=tuple(seen.facts.incarnation for seen in line),
        epoch=epoch,
    )


def _line_of_survivors(p: Pass, inst: InstanceBook) -> list[RunnerSeen]:
    """One runner per rank, layers from the model's first to its last; empty if there is none."""
    by_rank: dict[int, RunnerSeen] = {}
    for seen in p.facts.runners.values():
        seat = seen.facts.seat
        if seat is None or seat.instance != inst.id or seen.facts.model != inst.wish.model:
            continue
        known = by_rank.get(seat.rank)
        if is_adoptable(p, seen) and (known is None or _epoch(seen) > _epoch(known)):
            by_rank[seat.rank] = seen
    line = [by_rank[rank] for rank in sorted(by_rank)]
    return line if line and _is_whole(line) else []


def _is_whole(line: list[RunnerSeen]) -> bool:
    reached = 0
    for rank, seen in enumerate(line):
        seat, shard = seen.facts.seat, seen.facts.shard
        if shard is None or seat is None or seat.rank != rank or shard.start != reached:
            return False
        reached = shard.stop
    last = line[-1].facts.shard
    return last is not None and last.is_last and len({seen.facts.dtype for seen in line}) == 1


def _epoch(seen: RunnerSeen) -> Epoch:
    return seen.facts.epoch or Epoch(0, 0)


def is_adoptable(p: Pass, seen: RunnerSeen) -> bool:
    """Alive, listed by a ready node of the same incarnation, and not in anybody's hands."""
    facts = seen.facts
    node = p.facts.nodes.get(facts.node)
    return (
        facts.runner_id not in p.book.runners
        and facts.state not in (RunnerState.STOPPED, RunnerState.DRAINING)
        and p.facts.silence_s(seen.heard_at, p.now) < p.timing.suspect_s
        and node is not None
        and p.is_ready(facts.node)
        and node.facts.incarnation == facts.incarnation
        and memory_of(p, facts.node, facts.runner_id) is not None
    )


def memory_of(p: Pass, node: NodeName, runner: RunnerId) -> int | None:
    """What the ledger counts for a process; None if its node does not list it."""
    seen = p.facts.nodes.get(node)
    processes = seen.facts.processes if seen else ()
    return next((r.memory_bytes for r in processes if r.runner_id == runner), None)


def _seat_plan(p: Pass, rank: int, seen: RunnerSeen) -> SeatPlan:
    facts = seen.facts
    memory = memory_of(p, facts.node, facts.runner_id)
    assert facts.shard is not None  # _line_of_survivors looked
    assert memory is not None
    return SeatPlan(
        rank=rank,
        node=facts.node,
        shard=facts.shard,
        memory_bytes=memory,
        kv_pages=facts.kv_pages,
    )


def _standing_epoch(line: list[RunnerSeen]) -> Epoch | None:
    epochs = {seen.facts.offer.epoch if seen.facts.offer else None for seen in line}
    if len(epochs) == 1 and all(seen.facts.state is RunnerState.READY for seen in line):
        return epochs.pop()
    return None
