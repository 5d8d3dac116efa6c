"""The actor that a runner is. It runs a program in Ray's process as if that were a child's.

The program is called in the main thread, where Ray runs the methods of an actor, so that signals
reach it; the call lasts as long as the runner lives, and the process ends with it.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from paceline.cluster.ray.lease import sign_in
from paceline.process.child import LIFE_VARIABLE, PARENT_GONE


class RunnerActor:
    """Made once, called once."""

    def run(
        self, lease: str, name: str, agent: int, argv: tuple[str, ...], env: Mapping[str, str]
    ) -> None:
        """Signs in at `lease` of the process `agent`, then calls `main` of the module or file
        `argv[0]`. Never returns."""
        leave = _Leaver()
        signal.signal(signal.SIGTERM, leave.at_signal)
        try:
            life, output = sign_in(lease, name)
        except OSError:
            os._exit(PARENT_GONE)
        _speak_into(output)
        leave.by(life)
        # The lease is to the program what the life pipe is to a child's.
        os.environ.update({**env, LIFE_VARIABLE: f"{life.fileno()}:{agent}:0"})
        sys.argv = list(argv)
        leave(_code_of(_main(argv[0])))


class _Leaver:
    """Ends the process, and says with which code."""

    def __init__(self) -> None:
        self._life: socket.socket | None = None
        self._asked: int | None = None

    def by(self, life: socket.socket) -> None:
        """The code is said there."""
        self._life = life
        if self._asked is not None:
            self(-self._asked)

    def __call__(self, code: int) -> None:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            if self._life is not None:
                self._life.send(str(code).encode())
        os._exit(code & 0xFF)

    def at_signal(self, number: int, _: FrameType | None) -> None:
        """Until the program minds the signal itself. It may come as soon as we have signed in."""
        if self._life is None:
            self._asked = number
        else:
            self(-number)


def _main(program: str) -> Callable[[], object]:
    """Resolved when it is called, so that an error in its imports is the program's."""
    if program.endswith(".py"):
        return lambda: runpy.run_path(program, run_name=Path(program).stem)["main"]()
    return lambda: importlib.import_module(program).main()


def _code_of(main: Callable[[], object]) -> int:
    """The exit code that Python would end with after this."""
    try:
        returned = main()
    except SystemExit as asked:
        returned = asked.code
    except BaseException:
        traceback.print_exc()
        return 1
    if returned is None or isinstance(returned, int):
        return returned or 0
    print(returned, file=sys.stderr)
    return 1


def _speak_into(output: int) -> None:
    """From now on the words of this process, native code's too, go to its agent and not to Ray."""
    for fd in (1, 2):
        os.dup2(output, fd)
    os.close(output)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
