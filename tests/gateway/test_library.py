"""A gateway on a machine without the checkpoint: it fetches what text needs, and no weights."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import msgspec
import pytest
import zmq

from paceline.checkpoint import Store
from paceline.gateway.library import FAILED_S, MAX_NAMED, Library
from paceline.gateway.texts import bring_texts
from paceline.transport.errors import NobodyGives
from paceline.types.errors import NotFound
from paceline.types.weights import ModelSources
from tests.support.depots import MEMBER, Nodes
from tests.support.small import SMALL, write_small

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_small(home / "models")
    return home


@pytest.fixture
def nodes(home, short):
    made = Nodes(home, short, zmq.Context.instance())
    yield made
    made.close()


@pytest.fixture
def library(tmp_path) -> Library:
    store = Store(tmp_path)
    return Library(store, bring_texts(store, MEMBER))


async def test_the_texts_of_a_model_come_from_a_node_that_has_it(home, nodes, library, tmp_path):
    source, shelf = nodes.open()
    manifest = Store(home).manifest(SMALL)
    with pytest.raises(NotFound):
        await library.open(SMALL)
    known = ModelSources(model=SMALL, digest=manifest.digest, sources=(source,))
    library.heed([known])
    text = await library.open(SMALL)
    assert text.tokenizer.decode(text.tokenizer.encode("Paris")) == "Paris"
    assert await library.open(SMALL) is text
    weights = next(n for n, f in enumerate(manifest.files) if f.name == "model.safetensors")
    assert weights not in {file for file, _ in shelf.chunks}
    assert not Store(tmp_path).has(SMALL)
    # Nobody is asked again for what is on the disk.
    again = Library(Store(tmp_path), bring_texts(Store(tmp_path), MEMBER))
    again.heed([msgspec.structs.replace(known, sources=())])
    assert (await again.open(SMALL)).vocab_size == text.vocab_size


async def test_a_model_that_nobody_gives_is_unavailable_and_comes_when_somebody_does(
    home, nodes, library
):
    digest = Store(home).manifest(SMALL).digest
    library.heed([ModelSources(model=SMALL, digest=digest, sources=())])
    with pytest.raises(NobodyGives):
        await library.open(SMALL)
    source, _ = nodes.open()
    library.heed([ModelSources(model=SMALL, digest=digest, sources=(source,))])
    assert (await library.open(SMALL)).name == SMALL


async def test_sources_are_kept_of_the_models_that_were_named_last(tmp_path):
    brought: list[str] = []

    def bring(model: ModelSources) -> Path:
        brought.append(model.model)
        raise NobodyGives("no node gives it")

    library = Library(Store(tmp_path), bring)
    names = [f"m-{number}" for number in range(MAX_NAMED)]
    library.heed(ModelSources(model=name, digest="1" * 64, sources=()) for name in names)
    library.heed(ModelSources(model=name, digest="1" * 64, sources=()) for name in ("m-0", "more"))
    for name, kept in (("m-0", True), ("m-1", False), ("m-2", True), ("more", True)):
        with pytest.raises(NobodyGives if kept else NotFound):
            await library.open(name)
    assert brought == ["m-0", "m-2", "more"]


async def test_a_model_that_does_not_come_holds_up_no_other(home, tmp_path):
    """Nor is it asked for anew by each request: neither while it comes, nor when it just failed."""
    asked: list[str] = []
    dead = threading.Event()
    now = [0.0]

    def bring(model: ModelSources) -> Path:
        asked.append(model.model)
        if model.model == "dead":
            dead.wait(60)
            raise NobodyGives("no node gives it")
        return home / "models" / SMALL

    library = Library(Store(tmp_path), bring, lambda: now[0])
    library.heed([ModelSources(model=name, digest="1" * 64, sources=()) for name in ("dead", "up")])
    waiting = [asyncio.create_task(library.open("dead")) for _ in range(3)]
    assert (await library.open("up")).name == "up"
    waiting[0].cancel()
    dead.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError, NobodyGives, NobodyGives]
    with pytest.raises(NobodyGives):
        await library.open("dead")
    assert asked.count("dead") == 1
    now[0] += FAILED_S
    with pytest.raises(NobodyGives):
        await library.open("dead")
    assert asked.count("dead") == 2
