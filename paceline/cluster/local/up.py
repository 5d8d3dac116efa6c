"""A local cluster from its start to its end, in the calling process."""

from __future__ import annotations

from paceline.cluster.local.options import UpOptions, check, commands
from paceline.cluster.parent.commands import node_share
from paceline.cluster.parent.parent import OnStatus, run_parent
from paceline.cluster.parent.port import Served, held_port
from paceline.process.cpus import usable_cpus
from paceline.process.home import Home
from paceline.process.memory import machine_memory
from paceline.transport.membership import Membership


def run_local(options: UpOptions, on_status: OnStatus) -> int:
    """Runs a local cluster as `run_parent` does.

    Raises InvalidRequest or Unavailable, with nothing started, when it cannot be: the home is
    held, the port is in use.
    """
    check(options)
    home = Home(options.home)
    share = node_share(options.nodes, options.node_memory, machine_memory(), usable_cpus())
    with home.lock(), held_port(options.host, options.port) as port:
        cluster_id = home.cluster_id()
        Membership.of_head(home)
        made = commands(options, home.path, home.runtime(), cluster_id, port, share)
        served = Served(host=options.host, port=port, api_key=options.api_key)
        return run_parent(home, cluster_id, made, served, on_status)
