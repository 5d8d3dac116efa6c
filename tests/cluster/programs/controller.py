"""Has one runner launched on every incarnation of every node, and writes down what it hears."""

import os
import sys
import threading
from pathlib import Path

import msgspec

from paceline.cluster.agents import AgentCluster
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.files import write_whole
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.transport.control import ControlServer
from paceline.transport.membership import Membership
from paceline.types.control import Launch, NodeBeat
from paceline.types.facts import NodeFacts
from paceline.types.ids import RunnerId

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
stop = threading.Event()
watch_parent(stop.set)
install_stop_signals(lambda _: stop.set())
seen: dict[str, NodeFacts] = {}
membership = Membership.of(Home(options["--home"]))
with ControlServer(control_address(Path(options["--runtime"])), membership) as control:
    cluster = AgentCluster(control.send)
    while not stop.is_set():
        for _, message in control.receive(0.05):
            if not isinstance(message, NodeBeat):
                continue
            facts = message.facts
            seen[facts.name] = facts
            name = RunnerId(f"plain-{facts.name}-{facts.incarnation}")
            cluster.launch(
                facts.name,
                Launch(runner_id=name, incarnation=facts.incarnation, memory_bytes=2**20),
            )
            heard = msgspec.json.encode({"pid": os.getpid(), "nodes": seen})
            write_whole(Path(options["--home"]) / "heard.json", heard)
