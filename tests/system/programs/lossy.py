"""`python lossy.py MODULE …`: a process of the cluster whose transport loses what a test chose.

A test writes a file `KIND` into the directory that LOSSES names, holding how many of that kind are
to pass first. The process that comes to that number takes the file away, and drops that one."""

import os
import runpy
import sys
from collections import Counter
from pathlib import Path

from paceline.transport import front, link

DIRECTORY = Path(os.environ["LOSSES"])
passed = Counter()


def is_lost(message):
    kind = type(message).__name__
    order = DIRECTORY / kind
    if not order.exists():
        passed[kind] = 0
        return False
    passed[kind] += 1
    try:
        if passed[kind] <= int(order.read_text()):
            return False
        order.rename(order.with_suffix(".taken"))
    except (OSError, ValueError):
        return False  # another process was quicker
    return True


put, to_gateway, to_driver = link.Link._put, front.FrontServer.send, front.AsyncFrontClient.send


def lossy_put(self, body, tensor, now):
    if not is_lost(body):
        return put(self, body, tensor, now)
    self._sent, self._spoke_at = self._sent + 1, now
    return True


link.Link._put = lossy_put
front.FrontServer.send = lambda self, peer, message: (
    is_lost(message) or to_gateway(self, peer, message)
)
front.AsyncFrontClient.send = lambda self, message: (
    None if is_lost(message) else to_driver(self, message)
)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
