from __future__ import annotations

from msgspec.structs import replace

from paceline.controller.routing import routes
from paceline.types.facts import StreamLoad
from paceline.types.ids import Epoch
from tests.controller.scenes import Scene

LOAD = StreamLoad(
    running=1, waiting=2, pages_free=3, pages_total=4, tokens_emitted=5,
    prefix_queries=6, prefix_hits=7, guesses_made=8, guesses_right=9,
)  # fmt: skip


def test_a_route_tells_what_its_driver_counts():
    scene = Scene()
    scene.placed(0, 1)
    scene.ready(Epoch(1, 1))
    seen = scene.runners["r-0"]
    scene.runners["r-0"] = replace(seen, facts=replace(seen.facts, load=LOAD))
    (route,) = routes(scene.facts(), scene.book, {}, {}).routes
    for count in (
        "running", "waiting", "pages_total",
        "prefix_queries", "prefix_hits", "guesses_made", "guesses_right",
    ):  # fmt: skip
        assert getattr(route, count) == getattr(LOAD, count), count
