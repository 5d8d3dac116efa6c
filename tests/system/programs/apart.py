"""A supervisor whose node has a store of its own, in the home's `stores`; node-1 has the home's."""

import sys

from paceline.cluster.local.supervisor import main

home, node = (sys.argv[sys.argv.index(name) + 1] for name in ("--home", "--node"))
if node != "node-1":
    sys.argv += ["--store", f"{home}/stores/{node}"]
main()
