"""The gateway as a process, with a real controller's socket and a real driver's front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from openai import OpenAI

from paceline.gateway.__main__ import USED_WRONGLY
from paceline.process.child import LIFE_VARIABLE, PARENT_GONE, life_word
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.transport.control import ControlServer
from paceline.transport.membership import Membership
from paceline.types.control import Answer, Ask, GatewayBeat, Routes
from tests.gateway.rig import MODEL, ScriptedDriver, add_model, say, view


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(directory: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    options = {"--home": directory / "home", "--runtime": directory, "--cluster-id": "c"}
    options |= {"--host": host, "--port": port}
    return [sys.executable, "-m", "paceline.gateway"] + [
        str(word) for pair in options.items() for word in pair
    ]


class Controller(threading.Thread):
    """Answers every beat with the routes, and admits the gateway's key at the driver."""

    def __init__(self, directory: Path, driver: ScriptedDriver) -> None:
        super().__init__(daemon=True)
        home = Home(directory / "home")
        home.create()
        self._server = ControlServer(control_address(directory), Membership.of_head(home))
        self._driver = driver
        self._ended = threading.Event()
        self.url = ""

    def run(self) -> None:
        while not self._ended.is_set():
            for peer, message in self._server.receive(0.05):
                if isinstance(message, GatewayBeat):
                    self.url = message.facts.url
                    self._driver.front.admit([message.facts.public_key])
                    routes = Routes(routes=(self._driver.route(),), instances=(view(),), term=1)
                    self._server.send(peer, routes)
                if isinstance(message, Ask):
                    body = {"nodes.list": [{"name": "n1"}], "events": []}[message.verb]
                    self._server.send(peer, Answer(number=message.number, body=body))
        self._server.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Controller]:
    driver = ScriptedDriver(directory, say("from a process"), pace_s=0.002)
    running = threading.Thread(target=lambda: asyncio.run(driver.run()), daemon=True)
    running.start()
    controller = Controller(directory, driver)
    controller.start()
    try:
        yield controller
    finally:
        controller.end()
        driver.dead.set()
        running.join()
        driver.front.close()


def wait_for(url: str, path: str, timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url + path, timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{path} was not 200 within {timeout_s} s")


def test_it_serves_stops_and_leaves_nothing(short: Path) -> None:
    add_model(short / "home")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with cluster(short) as controller:
        process = subprocess.Popen(command(short, port))
        try:
            wait_for(url, "/ready")
            assert controller.url == url
            client = OpenAI(base_url=f"{url}/v1", api_key="none")
            answer = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}]
            )
            assert answer.choices[0].message.content == "from a process"
            assert httpx.get(f"{url}/api/nodes").json() == [{"name": "n1"}]
            with httpx.stream("GET", f"{url}/api/events") as following:
                assert following.status_code == 200
                process.send_signal(signal.SIGTERM)
                assert process.wait(3) == 0
        finally:
            process.kill()
            process.wait()
    log = (short / "home" / "logs" / "gateway-gateway.log").read_text()
    assert '"finish_reasons": ["stop"]' in log
    assert "Traceback" not in log


def test_a_port_that_is_taken_and_an_address_that_is_not_ours(short: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = subprocess.run(command(short, port), capture_output=True, text=True, timeout=30)
    assert taken.returncode == 1
    assert f"port {port}" in taken.stderr
    assert "--port" in taken.stderr
    strange = subprocess.run(
        command(short, port, host="192.0.2.1"), capture_output=True, text=True, timeout=30
    )
    assert strange.returncode == USED_WRONGLY
    assert "192.0.2.1" in strange.stderr


def test_it_ends_with_its_parent(short: Path) -> None:
    add_model(short / "home")
    Membership.of_head(Home(short / "home"))
    port = free_port()
    life, ours = os.pipe()
    environment = {**os.environ, LIFE_VARIABLE: life_word(life, kernel_kills=False)}
    process = subprocess.Popen(command(short, port), env=environment, pass_fds=[life])
    try:
        os.close(life)
        wait_for(f"http://127.0.0.1:{port}", "/health")
        os.close(ours)
        assert process.wait(5) in (0, PARENT_GONE)
    finally:
        process.kill()
        process.wait()
