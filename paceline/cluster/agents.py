"""The controller's side of a cluster: orders to the agents of its nodes, over the control path."""

from __future__ import annotations

from collections.abc import Callable

from paceline.types.control import FromController, Kill, Launch, Peers, Reserve
from paceline.types.ids import NodeName


def agent_identity(node: NodeName, incarnation: str) -> str:
    """The name under which the agent of this incarnation connects to the controller."""
    return f"node:{node}:{incarnation}"


class AgentCluster:
    """A `Cluster` whose agents are connected to one ControlServer."""

    def __init__(self, send: Callable[[str, FromController], bool]) -> None:
        """`send(peer, message)`: the control server's; False when the peer is not there."""
        self._send = send

    def launch(self, node: NodeName, order: Launch) -> bool:
        return self._send(agent_identity(node, order.incarnation), order)

    def reserve(self, node: NodeName, order: Reserve) -> bool:
        return self._send(agent_identity(node, order.incarnation), order)

    def introduce(self, node: NodeName, order: Peers) -> bool:
        return self._send(agent_identity(node, order.incarnation), order)

    def kill(self, node: NodeName, incarnation: str, order: Kill) -> bool:
        return self._send(agent_identity(node, incarnation), order)
