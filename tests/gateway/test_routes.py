from __future__ import annotations

import msgspec
import pytest

from paceline.gateway.routes import RouteTable, Standing
from paceline.types.control import Route, Routes
from paceline.types.ids import Epoch, InstanceId, NodeName
from paceline.types.instance import InstanceView
from paceline.types.states import InstanceState
from tests.gateway.rig import MODEL, view


def route(instance: str = "i-1", epoch: Epoch | None = None) -> Route:
    return Route(
        instance=InstanceId(instance),
        model=MODEL,
        epoch=epoch or Epoch(1, 1),
        node=NodeName("n1"),
        address="ipc:///nowhere",
        public_key="k",
        numerics_id="n",
        running=0,
        waiting=0,
        pages_total=4,
    )


def news(*routes: Route, views: tuple[InstanceView, ...] = (), term: int = 1) -> Routes:
    return Routes(routes=routes, instances=views, term=term)


def test_older_terms_change_nothing() -> None:
    table = RouteTable()
    assert table.heed(news(route(), term=3))
    assert not table.heed(news(term=2))
    assert table.of_model(MODEL)
    assert table.heed(news(term=3))
    assert not table.of_model(MODEL)


def test_older_epochs_of_an_instance_change_nothing() -> None:
    table = RouteTable()
    new = route(epoch=Epoch(2, 5))
    table.heed(news(new))
    table.heed(news(msgspec.structs.replace(new, epoch=Epoch(2, 4), address="ipc:///old")))
    assert table.routes[InstanceId("i-1")] == new
    table.heed(news(route(epoch=Epoch(3, 1))))
    assert table.epoch_of(InstanceId("i-1")) == Epoch(3, 1)
    assert table.epoch_of(InstanceId("i-2")) is None


@pytest.mark.parametrize(("served", "standing"), [(False, Standing.DOWN), (True, Standing.COMING)])
def test_who_failed_and_has_served_before_is_waited_for(served: bool, standing: Standing) -> None:
    table = RouteTable()
    failed = msgspec.structs.replace(view(InstanceState.FAILED), served=served)
    table.heed(news(views=(failed,)))
    assert table.standing(MODEL).standing is standing


@pytest.mark.parametrize("state", InstanceState)
def test_every_state_has_a_standing_with_reasons(state: InstanceState) -> None:
    table = RouteTable()
    assert table.standing(MODEL).standing is Standing.UNKNOWN
    table.heed(news(views=(view(state),)))
    found = table.standing(MODEL)
    assert found.standing in (Standing.COMING, Standing.DOWN)
    assert f"it is {state.value}" in found.reasons[0]
    assert found.reasons == table.reasons()
    assert table.standing("other").standing is Standing.ABSENT
    table.heed(news(route(), views=(view(state),)))
    assert table.standing(MODEL).standing is Standing.READY
    assert table.reasons() == ()


def test_one_instance_on_its_way_is_enough_to_wait_for() -> None:
    table = RouteTable()
    failed, starting = view(InstanceState.FAILED), view(InstanceState.STARTING, name="i-2")
    table.heed(news(views=(failed, starting)))
    assert table.standing(MODEL).standing is Standing.COMING
    assert table.models() == (MODEL,)
