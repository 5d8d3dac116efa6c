"""The controller's process: its socket, its store, and its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.controller.store import Store
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.transport.control import ControlClient
from paceline.transport.membership import Membership
from paceline.types.control import Answer, Ask, NodeBeat, ToGateway
from paceline.types.facts import NodeFacts

DEADLINE_S = 30.0


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory whose name is short enough for ipc."""
    with tempfile.TemporaryDirectory(prefix="pl-") as path:
        yield Path(path)


def start(home: Path, runtime: Path) -> subprocess.Popen[bytes]:
    words = ["--home", str(home), "--runtime", str(runtime), "--cluster-id", "c"]
    return subprocess.Popen(
        [sys.executable, "-m", "paceline.controller", *words], stderr=subprocess.PIPE
    )


def answer(client: ControlClient[ToGateway], ask: Ask) -> Answer:
    """Asks until it is answered: the first words may find nobody there yet."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        client.send(ask)
        for message in client.receive():
            if isinstance(message, Answer) and message.number == ask.number:
                return message
        time.sleep(0.05)
    raise AssertionError(f"{ask.verb} was not answered")


def test_it_answers_obeys_sigterm_and_remembers(tmp_path: Path, runtime: Path) -> None:
    node = NodeFacts(
        name="n1", incarnation="a", cluster_id="c", pid=1, host="h", cpus=1, memory_bytes=2**30
    )
    membership = Membership.of_head(Home(tmp_path))
    for term in (1, 2):
        process = start(tmp_path, runtime)
        try:
            address, name = control_address(runtime), f"gateway:{term}"
            with ControlClient[ToGateway](address, name, ToGateway, membership) as client:
                client.send(NodeBeat(node))
                status = answer(client, Ask(number=term, verb="status"))
                assert status.body["term"] == term
                assert answer(client, Ask(number=9, verb="dance")).error == "invalid_request"
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            process.communicate()
    assert Store(tmp_path / "store.sqlite").term() == 2
    assert (tmp_path / "logs" / "events.jsonl").read_text().count("begins with 0 wanted") == 2


def test_a_damaged_store_ends_it_with_a_sentence(tmp_path: Path, runtime: Path) -> None:
    Membership.of_head(Home(tmp_path))
    (tmp_path / "store.sqlite").write_bytes(b"this is no database" * 100)
    process = start(tmp_path, runtime)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert b"store.sqlite cannot be opened" in said
