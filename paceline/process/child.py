"""The child's side of a parent's care: ending with the parent, and ending when asked to.

Two things tell of the parent's end, for either alone has a hole: the kernel's signal
(PR_SET_PDEATHSIG) also ends a stopped or hung process, but follows the *thread* that started us;
the life pipe, whose other end only the parent holds, works from any thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

from paceline.types.errors import PacelineError

LIFE_VARIABLE = "PACELINE_LIFE"
"""Set by the parent: "<fd of the life pipe>:<pid of the parent>:<whether the kernel kills too>"."""

PARENT_GONE = 113
"""Exit code of a process that ended because its parent did."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def life_word(fd: int, *, kernel_kills: bool) -> str:
    """What a parent puts into LIFE_VARIABLE."""
    return f"{fd}:{os.getpid()}:{int(kernel_kills)}"


def watch_parent(on_gone: Callable[[], None], *, grace_s: float = 2.0) -> bool:
    """Ends this process when its parent is gone. Call it first thing, from the main thread.

    Where the parent asked for it the kernel kills us at once. Otherwise `on_gone` is called on a
    thread of its own and asks the process to end; after `grace_s` seconds it is ended regardless.
    Returns False, and watches nothing, when nobody promised to be our parent.
    """
    word = os.environ.pop(LIFE_VARIABLE, None)
    if word is None:
        return False
    fd, parent, kernel_kills = (int(part) for part in word.split(":"))
    os.set_inheritable(fd, False)
    if kernel_kills:
        _die_with_parent()
        # A parent that ended before the line above sends no signal any more.
        if os.getppid() != parent:
            os._exit(PARENT_GONE)
    threading.Thread(
        target=_watch, args=(fd, on_gone, grace_s), name="watch-parent", daemon=True
    ).start()
    return True


def _die_with_parent() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise PacelineError("watch_parent belongs in the main thread: the kernel forgets the rest")
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise PacelineError(f"prctl: {os.strerror(ctypes.get_errno())}")


def _watch(fd: int, on_gone: Callable[[], None], grace_s: float) -> None:
    while os.read(fd, 64):
        pass
    try:
        on_gone()
        time.sleep(grace_s)
    finally:
        os._exit(PARENT_GONE)


def name_thread(name: str) -> None:
    """What `top -H` and a debugger call the calling thread; at most 15 bytes. Linux only."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def install_stop_signals(
    callback: Callable[[signal.Signals], None],
    numbers: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Calls `callback` on these signals, in the main thread and between two of its steps: it
    should set a flag, no more. A parent starts us in a session of our own, so that a Ctrl-C in
    its terminal is not ours."""

    def handle(number: int, _: FrameType | None) -> None:
        callback(signal.Signals(number))

    for number in numbers:
        signal.signal(number, handle)
