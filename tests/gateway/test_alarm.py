from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from paceline.gateway.alarm import Alarm

pytestmark = pytest.mark.anyio

LIMIT_S = 0.5


class Held:
    def ring(self) -> None: ...


async def test_many_short_waits_ring_nothing_and_a_long_one_does_in_time() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    alarm = Alarm(LIMIT_S, lambda: rung.append(loop.time()))
    for _ in range(30):
        assert await alarm.over(asyncio.sleep(LIMIT_S / 20, "slept")) == "slept"
    assert not rung
    began = loop.time()
    await alarm.over(asyncio.sleep(2 * LIMIT_S))
    (at,) = rung
    assert at - began >= LIMIT_S


async def test_a_wait_that_failed_is_over() -> None:
    rung: list[None] = []
    alarm = Alarm(LIMIT_S, lambda: rung.append(None))
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("it failed"))
    with pytest.raises(ValueError, match="it failed"):
        await alarm.over(future)
    await asyncio.sleep(1.5 * LIMIT_S)
    assert not rung


async def test_its_timer_keeps_nobody_in_memory() -> None:
    held = Held()
    gone = weakref.ref(held)
    await Alarm(60.0, held.ring).over(asyncio.sleep(0))
    del held
    gc.collect()
    assert gone() is None
