"""`python -m paceline.runner`: started by an agent, never by hand."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.home import Home
from paceline.process.logs import configure
from paceline.process.runtime import control_address
from paceline.types.timing import DEFAULT_TIMING

if TYPE_CHECKING:
    from paceline.runner.process import Runner

CLOSE_S = 1.0


class Stopper:
    """Remembers a wish to stop that comes while torch is still being imported."""

    def __init__(self) -> None:
        self.asked = False
        self.runner: Runner | None = None

    def __call__(self, *_: object) -> None:
        self.asked = True
        if self.runner is not None:
            self.runner.stop()


def main() -> int:
    # What native code cannot survive is told where it happened, as this process's last words.
    faulthandler.enable(all_threads=False)
    stopper = Stopper()
    # Before the imports that take seconds: a parent may be gone by the end of them.
    watch_parent(stopper)
    install_stop_signals(stopper)
    options = _options()
    home = Home(options.home)
    configure(
        "runner",
        options.runner_id,
        home.log_file("runner", options.runner_id),
        node=options.node,
        runner=options.runner_id,
    )
    _serve(options, home, stopper)
    sys.stdout.flush()
    return 0


def _serve(options: argparse.Namespace, home: Home, stopper: Stopper) -> None:
    import torch

    from paceline.checkpoint import Store
    from paceline.runner.process import Identity, Runner
    from paceline.runner.supply import Supply
    from paceline.runner.worker import Worker
    from paceline.transport.control import ControlClient
    from paceline.transport.membership import Membership
    from paceline.types.control import ToRunner

    torch.set_num_threads(options.threads)
    identity = Identity(
        runner_id=options.runner_id,
        node=options.node,
        incarnation=options.incarnation,
        cluster_id=options.cluster_id,
        pid=os.getpid(),
    )
    name = f"runner:{options.runner_id}"
    address = options.control or control_address(options.runtime)
    membership = Membership.of(home)
    worker = Worker()
    supply = Supply(Store(options.store or home.path), membership.member)
    with ControlClient[ToRunner](address, name, ToRunner, membership) as control:
        runner = Runner(
            identity,
            home,
            control,
            worker,
            supply,
            grace_s=options.grace,
            beat_s=options.beat,
            host=options.host,
        )
        stopper.runner = runner
        if not stopper.asked:
            runner.run()
    worker.close(CLOSE_S)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paceline.runner", description=__doc__)
    parser.add_argument("--runtime", type=Path, required=True)
    for name in ("--home", "--cluster-id", "--node", "--incarnation", "--runner-id"):
        parser.add_argument(name, required=True)
    parser.add_argument("--store", type=Path, help="where checkpoints lie; the home by default")
    parser.add_argument("--control", help="the controller's address, where it is elsewhere")
    parser.add_argument("--host", help="address of this machine for the other ranks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--grace",
        type=float,
        default=DEFAULT_TIMING.task_grace_s,
        help="seconds that a task that is early is kept",
    )
    parser.add_argument(
        "--beat", type=float, default=DEFAULT_TIMING.beat_s, help="seconds between two beats"
    )
    return parser.parse_args()


if __name__ == "__main__":
    # A job may still be deep inside torch; nothing of it is worth waiting for.
    os._exit(main())
