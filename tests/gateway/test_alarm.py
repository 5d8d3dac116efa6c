from __future__ import annotations

import asyncio

import pytest

from paceline.gateway.alarm import Alarm

pytestmark = pytest.mark.anyio

LIMIT_S = 0.1


async def test_many_short_waits_ring_nothing_and_a_long_one_does_in_time() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    alarm = Alarm(LIMIT_S, lambda: rung.append(loop.time()))
    for _ in range(30):
        assert await alarm.over(asyncio.sleep(LIMIT_S / 10, "slept")) == "slept"
    assert not rung
    began = loop.time()
    await alarm.over(asyncio.sleep(3 * LIMIT_S))
    (at,) = rung
    assert at - began >= LIMIT_S


async def test_a_wait_that_failed_is_over() -> None:
    rung: list[None] = []
    alarm = Alarm(LIMIT_S, lambda: rung.append(None))
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("it failed"))
    with pytest.raises(ValueError, match="it failed"):
        await alarm.over(future)
    await asyncio.sleep(2 * LIMIT_S)
    assert not rung
