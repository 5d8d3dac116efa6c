"""The controller's side of the local cluster: orders to supervisors, over the control path."""

from __future__ import annotations

from collections.abc import Callable

from paceline.types.control import FromController, Kill, Launch, Peers, Reserve
from paceline.types.ids import NodeName


def supervisor_identity(node: NodeName, incarnation: str) -> str:
    """The name under which the supervisor of this incarnation connects to the controller."""
    return f"node:{node}:{incarnation}"


class LocalCluster:
    """A `Cluster` whose nodes are supervisors connected to one ControlServer."""

    def __init__(self, send: Callable[[str, FromController], bool]) -> None:
        """`send(peer, message)`: the control server's; False when the peer is not there."""
        self._send = send

    def launch(self, node: NodeName, order: Launch) -> bool:
        return self._send(supervisor_identity(node, order.incarnation), order)

    def reserve(self, node: NodeName, order: Reserve) -> bool:
        return self._send(supervisor_identity(node, order.incarnation), order)

    def introduce(self, node: NodeName, order: Peers) -> bool:
        return self._send(supervisor_identity(node, order.incarnation), order)

    def kill(self, node: NodeName, incarnation: str, order: Kill) -> bool:
        return self._send(supervisor_identity(node, incarnation), order)
