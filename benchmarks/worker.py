"""A measured system's side of the pipe: one JSON object per line in, one per line out.

Standard library only: it runs in the peers' environments too.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from typing import Any, Protocol

from benchmarks.work import Outcome, Work

PR_SET_PDEATHSIG = 1


class System(Protocol):
    """One way to run a model: started once, then given work after work."""

    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        """Load the model. Returns facts worth reporting."""

    def run(self, work: Work) -> Outcome: ...

    def perplexity(self, ids: list[int]) -> float: ...


def serve(system: System) -> None:
    """Until stdin ends, or whoever started us is gone. What libraries print goes to stderr."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = {"done": _obey(system, json.loads(line))}
        except Exception as error:  # whatever a peer raises is reported, and measured no further
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def die_with_parent() -> None:
    """At once, also in the middle of work: what is left over would disturb what comes next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _obey(system: System, order: dict[str, Any]) -> Any:
    match order:
        case {"start": options}:
            return system.start(options)
        case {"run": work}:
            return asdict(system.run(Work(**work)))
        case {"perplexity": ids}:
            return system.perplexity(ids)
    raise ValueError(f"no such order: {order}")
