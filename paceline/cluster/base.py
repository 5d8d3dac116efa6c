"""What the controller asks of a cluster, whatever it is made of.

Facts go up the same way in every cluster: one agent per node sends a `NodeBeat` over the control
path, with the complete inventory of its incarnation and the last exits. What differs is how a
runner comes to life and to its end, and that is all that the protocol below holds.

What every cluster keeps to, so that the controller may repeat itself without harm (the
conformance suite checks it):

- A launch of a name that lives, that has ended, or that belongs to another incarnation of the
  node, starts nothing. A name is never used twice.
- An order of an older term than one that was heeded changes nothing.
- A launch beyond the node's memory starts nothing and shows as an exit with the reason.
- What is reserved for a process is only ever raised, and never beyond the node's memory.
- A kill of what is not there changes nothing, and yet shows as an exit: it will never be there.
  After `grace_s` a process is gone, whatever it does, and shows as an exit with the reason.
- A runner that goes away is in the inventory, and in the ledger, until it is seen gone.
- No runner outlives its node's agent.
"""

from __future__ import annotations

from typing import Protocol

from paceline.types.control import Kill, Launch, Peers, Reserve
from paceline.types.ids import NodeName


class Cluster(Protocol):
    """Starts and kills runners. No call waits; all are orders whose outcome the next facts
    show, and that may be lost on the way: the caller repeats them until they show."""

    def launch(self, node: NodeName, order: Launch) -> bool:
        """Has a runner of this name on the node. False: the node cannot be told now."""
        ...

    def reserve(self, node: NodeName, order: Reserve) -> bool:
        """Counts more memory for a runner that lives. False: the node cannot be told now."""
        ...

    def introduce(self, node: NodeName, order: Peers) -> bool:
        """Tells a node whose links to measure. False: the node cannot be told now."""
        ...

    def kill(self, node: NodeName, incarnation: str, order: Kill) -> bool:
        """Ends the runner, gently at first. False: the node cannot be told now."""
        ...
