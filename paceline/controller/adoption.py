"""Taking over what an earlier controller made: living runners, with their layers, as they are."""

from __future__ import annotations

from paceline.controller.actions import Adopt
from paceline.controller.book import InstanceBook
from paceline.controller.facts import RunnerSeen
from paceline.controller.passing import Pass
from paceline.types.ids import Epoch, NodeName, RunnerId
from paceline.types.instance import Placement, SeatPlan
from paceline.types.states import RunnerState


def adoption(p: Pass, inst: InstanceBook) -> Adopt | None:
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
