"""`python -m tests.support.freeze TID`: stops one thread of a process, as a hang would, until the
thread ends or this process does. Says `frozen` once it stands still."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_ALL_THREADS = 0x40000000
"""__WALL of waitpid(2): threads of others, too."""

FORBIDDEN = 77


def main(thread: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    for request in (_SEIZE, _INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            print(os.strerror(ctypes.get_errno()), flush=True)
            return FORBIDDEN
    os.waitpid(thread, _ALL_THREADS)
    print("frozen", flush=True)
    # A process whose threads somebody traces has not ended before the tracer has seen it.
    while True:
        _, status = os.waitpid(thread, _ALL_THREADS)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return 0


@contextmanager
def frozen_thread(pid: int, name: str) -> Iterator[None]:
    """The thread of that name of a process stands still; the others go on. Skips the test where
    ptrace(2) is not permitted."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (thread,) = (task.name for task in tasks if (task / "comm").read_text().strip() == name)
    tracer = subprocess.Popen(
        [sys.executable, "-m", "tests.support.freeze", thread], stdout=subprocess.PIPE, text=True
    )
    assert tracer.stdout is not None
    try:
        if (said := tracer.stdout.readline().strip()) != "frozen":
            pytest.skip(f"this machine lets us stop no single thread: {said}")
        yield
    finally:
        tracer.kill()
        tracer.wait()
        tracer.stdout.close()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
