"""What a download process runs first, by path: end with the parent, then be the program asked for.

    python child.py PARENT_PID MODULE_OR_FILE ARGUMENT…

The process asks for this itself, since code run between fork and exec is not safe beside threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("error: the parent process is gone")


def main() -> None:
    _, parent, program, *arguments = sys.argv
    end_with_parent(int(parent))
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
