"""`python -m paceline.cluster.ray.start`: Ray itself on this machine, ending with its parent.

`ray start --block` is called in this process, whose group all of Ray's servers are in. It is ended
as a group: some of them would otherwise look for their head for a minute before they go.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from paceline.cluster.ray.environment import storage_environment
from paceline.cluster.ray.options import check_room
from paceline.process.child import watch_parent
from paceline.process.home import Home
from paceline.types.errors import PacelineError

OBJECT_STORE_BYTES = 80 * 2**20
"""The least that Ray takes: nothing of ours goes through it."""


def main() -> int:
    watch_parent(lambda: os.killpg(0, signal.SIGKILL))
    parser = argparse.ArgumentParser(
        prog="python -m paceline.cluster.ray.start", description="Ray itself on this machine."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--temp", type=Path, required=True, help="for Ray's sockets and logs")
    parser.add_argument("--host", required=True, help="address of this machine for the others")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="be the head, at this port")
    where.add_argument("--head", metavar="HOST:PORT", help="join the head there")
    given = parser.parse_args()
    if given.head is None:
        storage = Home(given.home).ray
        try:
            check_room(storage)
        except PacelineError as error:
            print(error, file=sys.stderr)
            return 1
        os.environ.update(storage_environment(storage))
    sys.argv = ["ray", "start", *_words(given)]
    # Without its extra there is no Ray to import.
    from ray.scripts.scripts import main as ray_main

    ray_main()
    return 0


def _words(given: argparse.Namespace) -> list[str]:
    head = ["--head", "--port", str(given.port), "--no-monitor", "--include-dashboard", "false"]
    joined = ["--address", str(given.head)]
    own = [
        *("--block", "--disable-usage-stats", "--include-log-monitor", "false"),
        *("--node-ip-address", given.host, "--temp-dir", str(given.temp)),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
        # Processors are counted by our planner; Ray would keep a process ready for each.
        *("--num-cpus", "0"),
    ]
    return (head if given.head is None else joined) + own


if __name__ == "__main__":
    sys.exit(main())
