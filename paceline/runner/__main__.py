"""`python -m paceline.runner`: started by a supervisor, never by hand."""

from __future__ import annotations

import argparse
import os
import sys

import torch

from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.home import Home
from paceline.process.logs import configure
from paceline.runner.process import Identity, Runner
from paceline.runner.worker import Worker
from paceline.transport.control import ControlClient
from paceline.types.control import ToRunner
from paceline.types.ids import NodeName, RunnerId

CLOSE_S = 1.0


def main() -> None:
    options = _options()
    home = Home(options.home)
    configure(
        "runner",
        options.runner_id,
        home.log_file("runner", options.runner_id),
        node=options.node,
        runner=options.runner_id,
    )
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    identity = Identity(
        runner_id=RunnerId(options.runner_id),
        node=NodeName(options.node),
        incarnation=options.incarnation,
        cluster_id=options.cluster_id,
        pid=os.getpid(),
    )
    control: ControlClient[ToRunner] = ControlClient(
        f"ipc://{options.runtime}/control", f"runner:{options.runner_id}", ToRunner
    )
    worker = Worker()
    runner = Runner(identity, home, control, worker)
    watch_parent(runner.stop)
    install_stop_signals(lambda _: runner.stop())
    runner.run()
    control.close()
    worker.close(CLOSE_S)
    sys.stdout.flush()
    # A job may still be deep inside torch; nothing of it is worth waiting for.
    os._exit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paceline.runner", description=__doc__)
    for name in ("--home", "--runtime", "--cluster-id", "--node", "--incarnation", "--runner-id"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
