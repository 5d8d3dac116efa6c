"""What is served, as the controller last said. Pure.

The gateway keeps what it was told while the controller is away: requests go on by it.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from paceline.types.control import Route, Routes
from paceline.types.ids import Epoch, InstanceId
from paceline.types.instance import InstanceView
from paceline.types.states import InstanceState


class Standing(Enum):
    """How a model stands with this gateway."""

    UNKNOWN = "unknown"
    """The controller has not spoken yet."""
    ABSENT = "absent"
    """No instance of it is wanted."""
    COMING = "coming"
    """An instance starts or recovers: waiting is worth while."""
    DOWN = "down"
    """There are instances, but none that will serve by itself."""
    READY = "ready"


_COMING = frozenset(
    {
        InstanceState.WANTED,
        InstanceState.WAITING,
        InstanceState.PLACING,
        InstanceState.STARTING,
        InstanceState.READY,
        InstanceState.RECOVERING,
    }
)


class ModelStanding(msgspec.Struct, frozen=True):
    standing: Standing
    reasons: tuple[str, ...] = ()


class RouteTable:
    """The newest `Routes`; older terms and older epochs change nothing."""

    def __init__(self) -> None:
        self.routes: dict[InstanceId, Route] = {}
        self.instances: dict[InstanceId, InstanceView] = {}
        self.term = 0
        """Of the controller that was heeded last; 0: none has spoken yet."""

    @property
    def heard(self) -> bool:
        """Whether the controller has spoken at all."""
        return self.term > 0

    def heed(self, news: Routes) -> bool:
        """Take in what the controller says; False if it is an older one's word."""
        if news.term < self.term:
            return False
        self.term = news.term
        self.routes = {route.instance: self._newer(route) for route in news.routes}
        self.instances = {view.id: view for view in news.instances}
        return True

    def of_model(self, model: str) -> tuple[Route, ...]:
        return tuple(route for route in self.routes.values() if route.model == model)

    def epoch_of(self, instance: InstanceId) -> Epoch | None:
        route = self.routes.get(instance)
        return route.epoch if route else None

    def was_retired(self, instance: InstanceId, epoch: Epoch) -> bool:
        """Whether the line of that epoch ended because that was decided, and not of a failure."""
        view = self.instances.get(instance)
        return view is not None and view.retired is not None and epoch <= view.retired

    def models(self) -> tuple[str, ...]:
        """Models of which an instance is wanted, by name."""
        served = {route.model for route in self.routes.values()}
        return tuple(sorted(served | {view.model for view in self.instances.values()}))

    def standing(self, model: str) -> ModelStanding:
        if self.of_model(model):
            return ModelStanding(Standing.READY)
        if not self.heard:
            return ModelStanding(Standing.UNKNOWN, ("the controller has not been heard yet",))
        views = [view for view in self.instances.values() if view.model == model]
        if not views:
            return ModelStanding(Standing.ABSENT)
        reasons = tuple(_sentence(view, reason) for view in views for reason in _reasons(view))
        coming = any(_is_coming(view) for view in views)
        return ModelStanding(Standing.COMING if coming else Standing.DOWN, reasons)

    def reasons(self) -> tuple[str, ...]:
        """Why nothing is served, one sentence each; empty where something is."""
        if self.routes:
            return ()
        if not self.heard:
            return ("the controller has not been heard yet",)
        if not self.instances:
            return ("no instance is wanted; start one with POST /api/instances",)
        views = self.instances.values()
        return tuple(_sentence(view, reason) for view in views for reason in _reasons(view))

    def _newer(self, route: Route) -> Route:
        known = self.routes.get(route.instance)
        return known if known and known.epoch > route.epoch else route


def _is_coming(view: InstanceView) -> bool:
    """One that is called failed is tried on; if it has served before, it most likely will again."""
    return view.state in _COMING or (view.state is InstanceState.FAILED and view.served)


def _reasons(view: InstanceView) -> tuple[str, ...]:
    return view.reasons or ("no reason was given",)


def _sentence(view: InstanceView, reason: str) -> str:
    return f"instance {view.id} of {view.model} is {view.state.value}: {reason}"
