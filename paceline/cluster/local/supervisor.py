"""`python -m paceline.cluster.local.supervisor`: a virtual node, the parent of its runners."""

from __future__ import annotations

import shlex
import sys

from paceline.cluster.node.agent import configure_logs, run_agent
from paceline.cluster.node.settings import NodeSettings, node_parser, node_settings, runner_words
from paceline.process.home import Home
from paceline.process.spawn import Child
from paceline.types.ids import RunnerId


class Children:
    """Runners are child processes of the agent."""

    ready, lost = True, ""

    def __init__(self, settings: NodeSettings, program: tuple[str, ...]) -> None:
        """The runner's options are appended to `program`."""
        self._settings = settings
        self._program = program
        self._logs = Home(settings.home).logs

    def start(self, runner_id: RunnerId) -> Child:
        return Child(
            (*self._program, *runner_words(self._settings, runner_id)),
            name=runner_id,
            output=self._logs / f"runner-{runner_id}.out",
            env={"OMP_NUM_THREADS": str(self._settings.threads)},
        )


def main() -> None:
    parser = node_parser("paceline.cluster.local.supervisor", "A virtual node.")
    parser.add_argument("--runner", default=f"{shlex.quote(sys.executable)} -m paceline.runner")
    given = parser.parse_args()
    settings = node_settings(given)
    configure_logs(settings)
    run_agent(settings, Children(settings, tuple(shlex.split(given.runner))))


if __name__ == "__main__":
    main()
