"""The heart: what is observed and what is wanted, in; actions that explain themselves, out.

Pure and level-triggered: it compares and never remembers. `act` writes into the book what was
done, and `decide` is asked again until it has nothing more to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paceline.controller.actions import Action, Decision, Heal, Move, Stumble
from paceline.controller.blanks import keep_blanks
from paceline.controller.book import Book, InstanceBook
from paceline.controller.census import news
from paceline.controller.ending import end
from paceline.controller.facts import Facts
from paceline.controller.filling import fill, tend
from paceline.controller.introductions import introductions
from paceline.controller.line import keep_line
from paceline.controller.passing import Pass
from paceline.controller.placing import explain, move, place, replace
from paceline.controller.seats import SeatSeen, Stage, look, why_not_here, why_unfilled
from paceline.controller.spares import kills_again, unneeded
from paceline.controller.tasks import orders_again
from paceline.lifecycle import InstanceEvent
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.states import InstanceState, RunnerState
from paceline.types.timing import DEFAULT_TIMING, Timing

GIVE_UP_AFTER = 5
"""Failures of one seat or of the line in a row, none of which it came back from, after which an
instance is called failed. It is tried on all the same."""


def decide(
    facts: Facts,
    book: Book,
    now: float,
    timing: Timing = DEFAULT_TIMING,
    tiers: Sequence[Tier] = DEFAULT_TIERS,
) -> Decision:
    """What to do now, and when to look again. News comes first: nothing rests on an old book."""
    p = Pass(facts, book, now, timing, tiers)
    actions = tuple(news(p))
    if not actions:
        actions = tuple(_decide_instances(p))
    if all(action.quiet for action in actions):
        actions = (*actions, *keep_blanks(p), *unneeded(p), *kills_again(p), *orders_again(p))
        actions = (*actions, *introductions(p))
    return Decision(actions, p.next_wake, p.names, is_part=p.is_part)


def _decide_instances(p: Pass) -> Iterator[Action]:
    """Not all may be planned in one pass: whoever waits longest for the planner comes first, and
    last whoever could not be decided about since."""
    instances = p.book.instances.values()
    for inst in sorted(instances, key=lambda inst: (bool(inst.stumble), inst.planned_at)):
        try:
            yield from tuple(_decide_instance(p, inst))
        except Exception as error:  # one instance's trouble is never the others'
            sentence = f"{inst.id}: deciding failed: {type(error).__name__}: {error}"
            if inst.stumble != sentence:
                yield Stumble(sentence=sentence, instance=inst.id)


def _decide_instance(p: Pass, inst: InstanceBook) -> Iterator[Action]:
    seats = look(p, inst)
    if inst.wish.deleted:
        yield from end(p, inst, seats)
    elif not inst.seats:
        yield from place(p, inst)
    elif missing := why_not_here(p, inst, seats):
        waits = tuple(replace(p, inst, missing))
        yield from waits or (action for seat in seats for action in tend(p, seat))
    elif inst.state is InstanceState.WAITING:
        sentence = f"{inst.id} goes on: what it waited for is there"
        yield Move(sentence=sentence, instance=inst.id, event=InstanceEvent.RESUMED)
    else:
        moves = tuple(move(p, inst))
        yield from moves or _carry_on(p, inst, seats)


def _carry_on(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> Iterator[Action]:
    for seat in seats:
        yield from fill(p, seat)
    yield from keep_line(p, inst, seats)
    yield from _judge(p, inst)
    yield from explain(inst, _reasons(p, inst, seats))


def _judge(p: Pass, inst: InstanceBook) -> Iterator[Action]:
    if inst.state is InstanceState.READY:
        if not inst.is_fresh and inst.healthy_s(p.now) >= p.timing.healthy_s:
            yield Heal(sentence=f"{inst.id} has been healthy", instance=inst.id)
    elif inst.state is not InstanceState.FAILED and inst.fruitless >= GIVE_UP_AFTER:
        yield Move(
            sentence=f"{inst.id} ({inst.wish.model}) is called failed after {inst.fruitless} "
            "failures in a row; it is tried on with growing pauses",
            instance=inst.id,
            event=InstanceEvent.GAVE_UP,
        )


def _reasons(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> tuple[str, ...]:
    """Why it is in this state, for people; only what keeps it from being ready."""
    lacking = [seat for seat in seats if not _is_done(seat)]
    trouble = tuple(f"{inst.state}: cannot move: {why}" for why in _stays(p, inst))
    if inst.state is InstanceState.READY and not lacking:
        return (f"ready: all {len(seats)} ranks are, in epoch {inst.epoch}", *trouble)
    if inst.state is InstanceState.FAILED:
        trouble += (_FAILED,)
    if inst.trouble:
        trouble += (f"{inst.state}: the line broke: {inst.trouble}",)
    pause_s = inst.patience.not_before - p.now
    if inst.epoch is None and pause_s > 0:
        trouble += (f"{inst.state}: connected again in {pause_s:.0f} s",)
    return (*trouble, *(f"{inst.state}: {why_unfilled(p, seat)}" for seat in lacking))


def _stays(p: Pass, inst: InstanceBook) -> tuple[str, ...]:
    is_asked_to_leave = any(seat.plan.node in p.drained for seat in inst.seats)
    return inst.stays if is_asked_to_leave else ()


_FAILED = (
    "failed: again and again; it is tried on with growing pauses, and is ready as soon as one works"
)


def _is_done(seat: SeatSeen) -> bool:
    return (
        seat.stage is Stage.FILLED
        and seat.runner is not None
        and seat.runner.facts.state is RunnerState.READY
    )
