"""The local cluster as a whole: real processes, with small stand-ins for controller, gateway and
runner, and the real parent and supervisors."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from paceline.cluster.local.detached import Detached, start_detached
from paceline.cluster.local.options import Programs, UpOptions
from paceline.cluster.parent.parent import Parent
from paceline.cluster.parent.port import held_port
from paceline.cluster.parent.sibling import Sibling
from paceline.cluster.parent.status import Command, UpStatus
from paceline.process.home import Home, RunInfo
from paceline.types.errors import DeadlineExceeded, InvalidRequest, Unavailable
from paceline.types.facts import NodeFacts

from .conftest import alive, program, until

PROGRAMS = Programs(
    controller=program("controller"), gateway=program("gateway"), runner=program("runner")
)
Start = Callable[..., Detached]


class Heard(msgspec.Struct):
    """What the controller's stand-in has written down."""

    pid: int
    nodes: dict[str, NodeFacts]


class Pids(msgspec.Struct, frozen=True):
    """Everybody of a cluster of two nodes."""

    controller: int
    nodes: dict[str, int]
    runners: dict[str, int]


@pytest.fixture(autouse=True)
def base(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = runtime / "r"
    monkeypatch.setenv("PACELINE_RUNTIME", str(base))
    return base


@pytest.fixture
def options(tmp_path: Path) -> UpOptions:
    return UpOptions(
        home=str(tmp_path / "home"), nodes=2, node_memory=2**24, port=0, programs=PROGRAMS
    )


@pytest.fixture
def start(base: Path) -> Iterator[Start]:
    """Starts clusters, and checks that nothing is left of them."""
    started: list[Detached] = []

    def up(options: UpOptions) -> Detached:
        started.append(start_detached(options))
        return started[-1]

    yield up
    for cluster in started:
        cluster.stop()
    left = [process for process in psutil.process_iter(["cmdline"]) if _is_of(base, process)]
    assert left == []


def _is_of(base: Path, process: psutil.Process) -> bool:
    return any(str(base) in word for word in process.info["cmdline"] or ())


def everybody(options: UpOptions) -> Pids:
    """Waits until both nodes have their runner."""
    path = Path(options.home) / "heard.json"
    found: list[Pids] = []

    def complete() -> bool:
        if not path.exists():
            return False
        heard = msgspec.json.decode(path.read_bytes(), type=Heard)
        pids = Pids(
            heard.pid,
            {name: facts.pid for name, facts in heard.nodes.items()},
            {name: p.pid for name, facts in heard.nodes.items() for p in facts.processes},
        )
        everyone = [pids.controller, *pids.nodes.values(), *pids.runners.values()]
        found[:] = [pids]
        return len(everyone) == 5 and all(alive(pid) for pid in everyone)

    until(complete)
    return found[0]


def descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def health(info: RunInfo) -> int | None:
    try:
        with urllib.request.urlopen(f"{info.url}/health", timeout=1) as answer:
            return int(answer.status)
    except (urllib.error.URLError, OSError):
        return None


def gateway_pid(parent: int) -> int:
    children = psutil.Process(parent).children()
    [gateway] = [child for child in children if "gateway.py" in child.cmdline()[1]]
    return int(gateway.pid)


def files_of(base: Path) -> list[Path]:
    return [path for path in base.rglob("*") if not path.is_dir()]


# --- a life --------------------------------------------------------------------------------------


def test_it_comes_up_tells_where_and_leaves_nothing(
    start: Start, options: UpOptions, base: Path
) -> None:
    cluster = start(options)
    info = cluster.wait_ready(30)
    assert health(info) == 200
    home = Home(options.home)
    assert home.read_run() == info
    assert info.cluster_id == home.cluster_id()
    everybody(options)
    pids = descendants(cluster.pid)
    assert len(pids) == 6
    ended = cluster.stop()
    assert ended is not None
    assert ended.code == 0
    assert [pid for pid in pids if alive(pid)] == []
    assert home.read_run() is None
    assert files_of(base) == []
    again = start(options)
    assert again.wait_ready(30).cluster_id == info.cluster_id


def test_the_key_shows_on_no_command_line_and_is_not_taken_from_our_environment(
    start: Start, options: UpOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_API_KEY", "of another cluster")
    keyed = start(msgspec.structs.replace(options, api_key="secret"))
    assert keyed.wait_ready(30).api_key == "secret"
    gateway = psutil.Process(gateway_pid(keyed.pid))
    assert gateway.environ()["PACELINE_API_KEY"] == "secret"
    family = [psutil.Process(keyed.pid), *psutil.Process(keyed.pid).children(recursive=True)]
    assert not any("secret" in " ".join(process.cmdline()) for process in family)
    keyed.stop()
    keyless = start(options)
    assert keyless.wait_ready(30).api_key is None
    assert psutil.Process(gateway_pid(keyless.pid)).environ()["PACELINE_API_KEY"] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(start: Start, options: UpOptions, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("whoever started the tests had it ignored, as nohup does; then all ignore it")
    cluster = start(options)
    cluster.wait_ready(30)
    everybody(options)
    pids = descendants(cluster.pid)
    os.kill(cluster.pid, number)
    until(lambda: cluster.poll(), timeout_s=10)
    assert [pid for pid in pids if alive(pid)] == []


def test_deaf_children_are_killed_within_the_promise(start: Start, options: UpOptions) -> None:
    deaf = (
        sys.executable,
        "-c",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
    )
    programs = Programs(controller=deaf, gateway=deaf, supervisor=deaf, runner=deaf)
    cluster = start(msgspec.structs.replace(options, nodes=1, programs=programs))
    until(lambda: len(descendants(cluster.pid)) == 3)
    pids = descendants(cluster.pid)
    ended = cluster.stop()
    assert ended is not None
    assert ended.code == 0, "it ended by itself before its own grace was over"
    assert [pid for pid in pids if alive(pid)] == []


def test_asked_twice_it_does_not_wait(runtime: Path, tmp_path: Path) -> None:
    """The clock stands still, so no grace is ever over: only the second word can end the child."""
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    command = Command(role="gateway", name="g", argv=(sys.executable, "-c", deaf))
    seen: list[UpStatus] = []

    def on_status(status: UpStatus) -> None:
        seen.append(status)
        parent.stop("asked")

    place = RunInfo(url="http://x", pid=1, cluster_id="c", started_at=0.0)
    sibling = Sibling(command, tmp_path, clock=lambda: 0.0)
    parent = Parent(Home(tmp_path), runtime, place, [sibling], lambda: False, on_status)
    parent.run()
    pids = [status.siblings[0].pid for status in seen]
    assert pids[0] is not None
    assert not alive(pids[0])
    assert pids[-1] is None
    assert [status.stopping for status in seen] == [False, True, True]


def test_asked_to_leave_it_lets_its_node_empty_itself_first(runtime: Path, tmp_path: Path) -> None:
    """SIGTERM is the word for that; SIGINT would end the node at once."""
    node = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('it is empty'))\n"
        "print('here', flush=True)\n"
        "time.sleep(60)"
    )
    argv = (sys.executable, "-c", node)
    siblings = [
        Sibling(Command(role=role, name=role, argv=argv), tmp_path) for role in ("gateway", "node")
    ]
    said = tmp_path / "node-node.out"
    ends: list[tuple[bool, dict[str, str]]] = []

    def on_status(status: UpStatus) -> None:
        until(lambda: said.exists() and "here" in said.read_text())
        parent.leave("this machine is wanted elsewhere")
        ends.append((status.stopping, {one.name: one.last_end for one in status.siblings}))

    place = RunInfo(url="http://x", pid=1, cluster_id="c", started_at=0.0)
    parent = Parent(Home(tmp_path), runtime, place, siblings, lambda: False, on_status)
    parent.run()
    of_node = [stopping for stopping, last in ends if "it is empty" in last["node"]]
    assert of_node[0] is False, "the gateway serves until the node is empty"
    assert "it is empty" in ends[-1][1]["gateway"]


# --- ends that nobody asked for ------------------------------------------------------------------


def test_killing_the_parent_ends_everybody_and_the_next_one_clears_up(
    start: Start, options: UpOptions, base: Path
) -> None:
    cluster = start(options)
    cluster.wait_ready(30)
    everybody(options)
    pids = descendants(cluster.pid)
    os.kill(cluster.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids))
    until(lambda: cluster.poll() is not None)
    assert files_of(base) != []
    again = start(options)
    assert again.wait_ready(30).pid == again.pid
    again.stop()
    assert files_of(base) == []


def test_killing_whoever_started_it_in_the_background_ends_everybody(
    options: UpOptions, tmp_path: Path
) -> None:
    script = (
        "import sys, time, msgspec\n"
        "from paceline.cluster.local.detached import start_detached\n"
        "from paceline.cluster.local.options import UpOptions\n"
        "cluster = start_detached(msgspec.json.decode(sys.argv[1], type=UpOptions))\n"
        "cluster.wait_ready(30)\n"
        "print(cluster.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    words = msgspec.json.encode(options).decode()
    argv = [sys.executable, "-c", script, words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        parent = int(starter.stdout.readline())
        everybody(options)
        pids = [parent, *descendants(parent)]
        starter.kill()
    until(lambda: not any(alive(pid) for pid in pids))
    assert Home(options.home).read_run() is None, "it ended in order"


def test_a_killed_controller_comes_back_and_runners_keep_their_pids(
    start: Start, options: UpOptions
) -> None:
    cluster = start(options)
    cluster.wait_ready(30)
    before = everybody(options)
    os.kill(before.controller, signal.SIGKILL)
    until(lambda: not alive(before.controller))
    after = everybody(options)
    assert after.controller != before.controller
    assert after.runners == before.runners
    assert after.nodes == before.nodes


def test_a_killed_supervisor_takes_its_runners_and_comes_back_as_another(
    start: Start, options: UpOptions
) -> None:
    cluster = start(options)
    cluster.wait_ready(30)
    before = everybody(options)
    os.kill(before.nodes["node-1"], signal.SIGKILL)
    until(lambda: not alive(before.runners["node-1"]))
    after = everybody(options)
    assert after.nodes["node-1"] != before.nodes["node-1"]
    assert after.nodes["node-2"] == before.nodes["node-2"]
    assert after.runners["node-2"] == before.runners["node-2"]
    assert after.runners["node-1"] != before.runners["node-1"]


def test_a_killed_gateway_comes_back_at_the_same_address(start: Start, options: UpOptions) -> None:
    cluster = start(options)
    info = cluster.wait_ready(30)
    os.kill(gateway_pid(cluster.pid), signal.SIGKILL)
    until(lambda: health(info) is None)
    until(lambda: health(info) == 200)
    assert Home(options.home).read_run() == info


# --- refusals ------------------------------------------------------------------------------------


def test_a_second_up_refuses_and_names_the_holder(start: Start, options: UpOptions) -> None:
    first = start(options)
    info = first.wait_ready(30)
    with pytest.raises(Unavailable) as refused:
        start(options).wait_ready(30)
    for words in (f"held by process {first.pid}, since 20", info.url, "paceline down"):
        assert words in str(refused.value)
    assert health(info) == 200
    assert Home(options.home).read_run() == info


def test_a_port_in_use_is_refused_before_anything_starts(start: Start, options: UpOptions) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} of 127.0.0.1 is in use"):
            start(msgspec.structs.replace(options, port=port)).wait_ready(30)


def test_a_cluster_that_cannot_get_ready_says_where_its_logs_are(
    start: Start, options: UpOptions
) -> None:
    broken = (sys.executable, "-c", "raise SystemExit('no gateway today')")
    programs = msgspec.structs.replace(PROGRAMS, gateway=broken)
    cluster = start(msgspec.structs.replace(options, programs=programs))
    with pytest.raises(DeadlineExceeded, match="logs"):
        cluster.wait_ready(1.5)
    log = Home(options.home).log_file("up", "cluster")
    until(lambda: "no gateway today" in log.read_text())
    assert Home(options.home).read_run() is None


def test_a_held_port_is_kept_from_others_but_not_from_a_listener_that_may_share() -> None:
    with held_port("127.0.0.1", 0) as port, socket.socket() as other, socket.socket() as ours:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(("127.0.0.1", port))
        ours.listen()
    with pytest.raises(InvalidRequest), held_port("no.such.host.invalid", 1):
        pass
