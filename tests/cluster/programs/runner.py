"""A process that lives as a runner does; the first word of its runner id says how it behaves."""

import os
import signal
import sys
import threading

from paceline.process.child import install_stop_signals, watch_parent


def main() -> None:
    name = sys.argv[sys.argv.index("--runner-id") + 1]
    manner = name.split("-")[0]
    stop = threading.Event()
    watch_parent(stop.set)
    if manner == "crash":
        print("loading shard")
        sys.exit("the shard is damaged")
    if manner == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        install_stop_signals(lambda _: stop.set())
    if manner == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
    while not stop.wait(0.05):
        pass


if __name__ == "__main__":
    main()
