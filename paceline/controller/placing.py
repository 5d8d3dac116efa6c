"""From a wish to seats: adopt what lives, else ask the planner, else wait and say for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from paceline.controller.actions import Action, AskAgain, Explain, Place, Pull, Stay, Wait
from paceline.controller.adoption import adoption
from paceline.controller.book import InstanceBook
from paceline.controller.facts import ModelSeen
from paceline.controller.ledger import Reservation
from paceline.controller.nodes import NodeState
from paceline.controller.offers import budgets
from paceline.controller.passing import Pass
from paceline.planner import NodeBudget, place_manually, plan
from paceline.types.errors import PacelineError
from paceline.types.ids import RunnerId
from paceline.types.instance import InstanceWish, NoPlacement, Placement
from paceline.types.links import Links
from paceline.types.model import ModelFacts
from paceline.types.states import InstanceState


def place(p: Pass, inst: InstanceBook) -> Iterator[Action]:
    """For an instance without seats."""
    adopted = adoption(p, inst)
    if adopted is not None:
        yield adopted
    elif inst.inherited and p.is_settling:
        p.wake_at(p.facts.started_at + p.timing.settle_s)
        yield from explain(inst, ("waiting: looking for its runners from before the restart",))
    else:
        yield from _planned(p, inst)


def replace(p: Pass, inst: InstanceBook, missing: Sequence[str]) -> Iterator[Action]:
    """For an instance some of whose seats cannot be filled where they are; `missing` says why."""
    yield from _planned(p, inst, tuple(missing))


def move(p: Pass, inst: InstanceBook) -> Iterator[Action]:
    """For an instance that is well, with seats on nodes that are to be empty: it goes to others,
    or stays if there are none."""
    leave = sorted({seat.plan.node for seat in inst.seats} & p.drained)
    model = p.facts.models.get(inst.wish.model, ModelSeen()).facts
    if not leave or model is None:
        return
    missing = tuple(f"{name} is to be empty" for name in leave)
    if not p.may_plan():
        return
    asked = _question(p, inst, model, missing)
    if asked == inst.asked:
        return
    answer = _ask(p, inst, model, asked.offered, asked.ways)
    if isinstance(answer, Placement):
        yield _placed(p, inst, model, answer, missing, moves=True)
    elif answer.reasons == inst.stays:
        yield AskAgain(sentence=f"{inst.id} stays", instance=inst.id, asked=asked)
    else:
        where = " and ".join(leave)
        sentence = f"{inst.id} cannot leave {where} and goes on there: {'; '.join(answer.reasons)}"
        yield Stay(sentence=sentence, instance=inst.id, reasons=answer.reasons, asked=asked)


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
    if not p.may_plan():
        return
    asked = _question(p, inst, seen.facts, missing)
    if asked == inst.asked:
        return
    answer = _ask(p, inst, seen.facts, asked.offered, asked.ways)
    if isinstance(answer, NoPlacement):
        said = (*missing, *answer.reasons, _what_helps(p, inst))
        reasons = tuple(f"waiting: {reason}" for reason in said)
        if inst.state is InstanceState.WAITING and reasons == inst.reasons:
            yield AskAgain(sentence=f"{inst.id} waits on", instance=inst.id, asked=asked)
            return
        sentence = f"{inst.id} ({inst.wish.model}) waits: {'; '.join((*missing, *answer.reasons))}"
        yield Wait(sentence=sentence, instance=inst.id, reasons=reasons, asked=asked)
        return
    yield _placed(p, inst, seen.facts, answer, missing)


class _Question(msgspec.Struct, frozen=True):
    """All that an answer of the planner rests on."""

    digest: str
    wish: InstanceWish
    offered: tuple[NodeBudget, ...]
    ways: Links
    missing: tuple[str, ...]


def _question(
    p: Pass, inst: InstanceBook, model: ModelFacts, missing: tuple[str, ...]
) -> _Question:
    offered = budgets(p.facts, p.ledger, inst, p.open)
    return _Question(model.digest, inst.wish, offered, p.ways, missing)


def _ask(
    p: Pass, inst: InstanceBook, model: ModelFacts, offered: Sequence[NodeBudget], ways: Links
) -> Placement | NoPlacement:
    p.plans += 1
    wish = inst.wish
    try:
        if wish.seats:
            return place_manually(model, offered, wish, wish.seats, links=ways)
        return plan(model, offered, wish, sticky=inst.placement, links=ways, tiers=p.tiers)
    except PacelineError as error:
        return NoPlacement(reasons=(str(error),))
    except Exception as error:  # an answer all the same: or it would be asked in every pass
        return NoPlacement(reasons=(f"planning failed: {type(error).__name__}: {error}",))


def _what_helps(p: Pass, inst: InstanceBook) -> str:
    nodes = dict.fromkeys(seat.plan.node for seat in inst.seats)
    lost = [name for name in nodes if p.nodes.get(name, NodeState.LOST) is NodeState.LOST]
    back = f"{' or '.join(lost)} returns, " if lost else ""
    closed = ", ".join(sorted(p.drained & p.ready))
    again = f"{closed} may be given seats again, " if closed else ""
    return f"it goes on by itself when {back}{again}another node joins, or memory is freed"


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
    p: Pass,
    inst: InstanceBook,
    model: ModelFacts,
    to: Placement,
    missing: tuple[str, ...],
    *,
    moves: bool = False,
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
    return Place(sentence=sentence, instance=inst.id, placement=to, runners=runners, moves=moves)


def _keep(inst: InstanceBook, to: Placement) -> tuple[RunnerId | None, ...]:
    """For each new seat the runner that sat on its node with the same layers, if any. Others are
    found as spare runners when the seat is filled."""
    old = {(seat.plan.node, seat.plan.shard): seat.runner for seat in inst.seats}
    return tuple(old.get((seat.node, seat.shard)) for seat in to.seats)
