"""A local cluster in the background, as a child that ends with whoever started it."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

import msgspec

from paceline.cluster.local.options import UpOptions
from paceline.cluster.local.up import run_local
from paceline.cluster.parent.parent import STOP_WITHIN_S
from paceline.process.exits import ChildExit
from paceline.process.home import Home, RunInfo
from paceline.process.logs import configure
from paceline.process.spawn import Child
from paceline.types.errors import DeadlineExceeded, PacelineError, Unavailable

OPTIONS_VARIABLE = "PACELINE_UP_OPTIONS"
"""The options travel in the environment, for there may be a key among them."""

_POLL_S = 0.05


class Detached:
    """A handle on the cluster's parent process; leaving the block ends the cluster."""

    def __init__(self, child: Child, home: Home) -> None:
        self._child = child
        self._home = home
        self.pid = child.pid

    def wait_ready(self, timeout_s: float) -> RunInfo:
        """Where the cluster answers, once it does. Raises Unavailable with its last words if it
        ended, DeadlineExceeded if it is not ready in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (ended := self._child.poll()) is not None:
                raise Unavailable(f"the cluster {ended.sentence}")
            info = self._home.read_run()
            if info is not None and info.pid == self.pid:
                return info
            time.sleep(_POLL_S)
        raise DeadlineExceeded(
            f"the cluster is not ready after {timeout_s:.0f} s; its logs are in {self._home.logs}"
        )

    def poll(self) -> ChildExit | None:
        """How it ended; None while it lives."""
        return self._child.poll()

    def stop(self) -> ChildExit | None:
        """Ends the cluster and waits for that, five seconds and a little. Safe to repeat."""
        self._child.terminate(STOP_WITHIN_S, "not needed any more")
        return self._child.wait(STOP_WITHIN_S + 1)

    def __enter__(self) -> Detached:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_detached(options: UpOptions) -> Detached:
    """Starts the cluster as our child; it ends when we do, however that happens."""
    home = Home(options.home)
    home.create()
    words = msgspec.json.encode(options).decode()
    child = Child(
        [sys.executable, "-m", "paceline.cluster.local.detached"],
        name="up",
        output=home.logs / "up-cluster.out",
        env={OPTIONS_VARIABLE: words},
        # It has children of its own to end in order, and whoever calls this may be a thread.
        kernel_kills=False,
    )
    return Detached(child, home)


def main() -> int:
    options = msgspec.json.decode(os.environ.pop(OPTIONS_VARIABLE), type=UpOptions)
    configure("up", "cluster", Home(options.home).log_file("up", "cluster"))
    try:
        return run_local(options, lambda _: None)
    except PacelineError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
