"""What a process says on stdout and stderr: the last of it kept, all of it in a bounded file."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import IO

from paceline.process.bounded import BoundedFile

TAIL_LINES = 50
"""What is passed on of them."""
HEARD_LINES = 128
"""A crash says what it is before its stack, which is cut at a hundred frames."""
MAX_LINE = 500
OUTPUT_BYTES = 2**20

_CHUNK = 2**16


class LastWords:
    """Reads a pipe to its end on a thread of its own, so that its writer never waits for us."""

    def __init__(self, pipe: IO[bytes], output: Path | None, name: str) -> None:
        """`pipe` is unbuffered and ours from now on. `output`: the bounded file, if any."""
        self._tail: deque[str] = deque(maxlen=HEARD_LINES)
        self._reader = threading.Thread(
            target=self._listen, args=(pipe, output), name=f"listen-{name}", daemon=True
        )
        self._reader.start()

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that were said."""
        return tuple(self._tail.copy())

    def wait(self, timeout_s: float) -> None:
        """Until the pipe's end, which whoever inherited it may keep away."""
        self._reader.join(timeout_s)

    def _listen(self, pipe: IO[bytes], output: Path | None) -> None:
        file = BoundedFile(output, max_bytes=OUTPUT_BYTES, backups=1) if output else None
        rest = b""
        with pipe:
            while chunk := pipe.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(line, file)
                if len(rest) > _CHUNK:
                    self._say(rest, file)
                    rest = b""
        if rest:
            self._say(rest, file)
        if file:
            file.close()

    def _say(self, line: bytes, file: BoundedFile | None) -> None:
        self._tail.append(line[:MAX_LINE].decode(errors="replace").rstrip())
        if file:
            file.write(line)
