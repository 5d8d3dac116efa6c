"""A runner with a bug: one token of the vocabulary makes it write where it must not."""

import os
import signal

from deadly import DEADLY

from paceline.runner.__main__ import main
from paceline.runner.compute import Compute

run = Compute.run


def run_or_die(self, step, payload):
    if DEADLY in step.token_ids:
        os.kill(os.getpid(), signal.SIGSEGV)
    return run(self, step, payload)


Compute.run = run_or_die
os._exit(main())
