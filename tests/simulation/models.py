"""The models of the simulation: sizes without files."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.controller.facts import ModelSeen
from paceline.types.model import ModelFacts
from tests.simulation.clock import Clock

GIB = 1024**3
CLUSTER = "cluster-1"

SMOL = ModelFacts(
    name="smol",
    family="llama",
    digest="d",
    disk_bytes=270 * 10**6,
    layer_params=(3_540_096,) * 30,
    embed_params=28_311_552,
    head_params=28_312_128,
    tied=True,
    width=576,
    vocab_size=49152,
    kv_width=192,
    depth_divisor=64,
    max_context=8192,
)


def model(name: str, layers: int, layer_params: int) -> ModelFacts:
    """One whose sizes are in its layers, so that it can be cut almost at will."""
    return ModelFacts(
        name=name,
        family="llama",
        digest=name,
        disk_bytes=2 * layers * layer_params,
        layer_params=(layer_params,) * layers,
        embed_params=10**5,
        head_params=10**5,
        tied=False,
        width=64,
        vocab_size=1000,
        kv_width=32,
        depth_divisor=64,
        max_context=4096,
    )


PULL_S = 1.5

LITTLE = model("little", 5, 8_000_000)
"""About 380 MiB on one node, 90 MiB more for each further one."""
LARGE = model("large", 6, 30_000_000)
"""About 900 MiB on one node."""


class OnDisk:
    """Stands for `paceline.controller.models.Models` where every model is there already."""

    def __init__(self, *models: ModelFacts) -> None:
        self._seen = {each.name: ModelSeen(facts=each) for each in models or (SMOL, LITTLE, LARGE)}

    def facts(self, name: str) -> ModelFacts | None:
        return self._seen[name].facts

    def look(self, names: Iterable[str]) -> dict[str, ModelSeen]:
        return {name: self._seen[name] for name in names}

    def pull(self, name: str) -> None:
        raise AssertionError("everything is on disk")


class Pulled(OnDisk):
    """A model may be dropped; then it is pulled, which fails until it is allowed again."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._all = dict(self._seen)
        self._refused: set[str] = set()

    def drop(self, name: str) -> None:
        self._seen[name] = ModelSeen()
        self._refused.add(name)

    def allow(self, name: str) -> None:
        self._refused.discard(name)

    def pull(self, name: str) -> None:
        if self._seen[name].facts is None and not self._seen[name].pulling:
            self._seen[name] = ModelSeen(pulling="12 % of 98 MB")
            self._clock.after(PULL_S, self._end, name)

    def _end(self, name: str) -> None:
        if name not in self._refused:
            self._seen[name] = self._all[name]
        elif self._seen[name].pulling:
            retry_at = self._clock.now + PULL_S
            self._seen[name] = ModelSeen(failure="the hub does not answer", retry_at=retry_at)
