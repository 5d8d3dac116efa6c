from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.garbage import GarbageCollectorThread

DEADLINE_S = 10.0


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory whose name is short enough for ipc."""
    path = Path(tempfile.mkdtemp(prefix="pl-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context that must be free of open sockets and of its own threads at the end."""
    before = set(threading.enumerate())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(DEADLINE_S)
    assert not ending.is_alive(), "a socket was left open"
    _eventually(lambda: {each for each in threading.enumerate() if not _is_zmqs(each)} <= before)


def _is_zmqs(thread: threading.Thread) -> bool:
    """pyzmq's own, one for the process, once something was sent without a copy."""
    return isinstance(thread, GarbageCollectorThread)


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    return _eventually


def _eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
