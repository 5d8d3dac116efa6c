"""`python -m paceline.cluster.ray.agent`: a node of a Ray cluster, the owner of its runners."""

from __future__ import annotations

import os
import sys

from paceline.cluster.node.agent import configure_logs, run_agent
from paceline.cluster.node.settings import NodeSettings, node_parser, node_settings, runner_words
from paceline.cluster.ray.lease import Leases, SignedIn
from paceline.cluster.ray.runner import ActorRunner
from paceline.cluster.ray.session import Session, Target
from paceline.process.home import Home
from paceline.process.logs import get_logger
from paceline.types.ids import RunnerId

FAILED = 1

log = get_logger(__name__)


class Actors:
    """Runners are Ray actors of the agent."""

    def __init__(self, settings: NodeSettings, session: Session, program: str) -> None:
        """`program`: a module or file with a `main`."""
        self._settings = settings
        self._session = session
        self._program = program
        self._logs = Home(settings.home).logs
        self._awaited: dict[str, ActorRunner] = {}
        """Those that have not signed in."""
        self._leases = Leases(settings.runtime / f"lease-{settings.incarnation}", self._signed_in)

    @property
    def ready(self) -> bool:
        return self._session.ready

    @property
    def lost(self) -> str:
        return self._session.lost

    def start(self, runner_id: RunnerId) -> ActorRunner:
        runner = ActorRunner(runner_id, self._logs / f"runner-{runner_id}.out")
        argv = (self._program, *runner_words(self._settings, runner_id))
        env = {"OMP_NUM_THREADS": str(self._settings.threads)}
        arguments = (str(self._leases.path), runner_id, os.getpid(), argv, env)
        for name, awaited in list(self._awaited.items()):
            if awaited.poll() is not None:
                self._awaited.pop(name, None)
        self._awaited[runner_id] = runner
        try:
            runner.give_up = self._session.make(runner_id, arguments, runner.failed)
        except BlockingIOError:
            self._awaited.pop(runner_id, None)
            raise
        return runner

    def close(self) -> None:
        self._leases.close()

    def _signed_in(self, runner: SignedIn) -> None:
        awaited = self._awaited.pop(runner.name, None)
        if awaited is None:
            log.warning("a runner that nobody waits for", runner=runner.name, pid=runner.pid)
            runner.turn_away()
        else:
            awaited.signed_in(runner)


def main() -> None:
    parser = node_parser("paceline.cluster.ray.agent", "A node of a Ray cluster.")
    parser.add_argument("--ray", required=True, metavar="HOST:PORT", help="the head of Ray")
    parser.set_defaults(host="127.0.0.1")
    parser.add_argument("--runner", default="paceline.runner.__main__", help="module or file")
    given = parser.parse_args()
    settings = node_settings(given)
    configure_logs(settings)
    target = Target(address=given.ray, host=given.host, namespace=settings.cluster_id)
    actors = Actors(settings, Session(target), given.runner)
    lost = run_agent(settings, actors)
    actors.close()
    if lost:
        print(lost, file=sys.stderr, flush=True)
    # Ray's own leave-taking waits for its head, and ends nothing that our end does not.
    os._exit(FAILED if lost else 0)


if __name__ == "__main__":
    main()
