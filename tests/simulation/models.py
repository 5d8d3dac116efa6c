"""The models of the simulation: sizes without files."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.controller.facts import ModelSeen
from paceline.types.model import ModelFacts

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
        max_context=4096,
    )


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
