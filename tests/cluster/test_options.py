from pathlib import Path

import pytest

from paceline.cluster.local.options import UpOptions, check, commands
from paceline.cluster.parent.commands import node_share
from paceline.cluster.parent.port import url_of
from paceline.process.memory import MachineMemory
from paceline.types.errors import InvalidRequest

GIB = 2**30


@pytest.mark.parametrize(
    ("nodes", "given", "available", "cpus", "memory", "threads"),
    [
        (2, None, 9 * GIB, 8, 4 * GIB, 4),
        (3, None, 1 * GIB, 2, GIB // 4, 1),
        (2, GIB, 9 * GIB, 3, GIB, 1),
        (1, None, 0, 1, 0, 1),
    ],
)
def test_nodes_share_the_machine(
    nodes: int, given: int | None, available: int, cpus: int, memory: int, threads: int
) -> None:
    share = node_share(nodes, given, MachineMemory(16 * GIB, available), cpus)
    assert (share.memory_bytes, share.threads) == (memory, threads)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 0},
        {"nodes": 65},
        {"port": -1},
        {"port": 65536},
        {"node_memory": 0},
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": ""},
        {"host": "192.0.2.7", "api_key": ""},
        {"host": "no address"},
    ],
)
def test_what_can_never_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        check(UpOptions(home="/h", **wrong))  # type: ignore[arg-type]


def test_others_may_reach_what_asks_for_a_key() -> None:
    check(UpOptions(home="/h", host="0.0.0.0", api_key="sesame"))
    check(UpOptions(home="/h", host="::1"))
    check(UpOptions(home="/h", host="localhost"))


def test_every_process_is_told_what_it_needs() -> None:
    options = UpOptions(home="/h", nodes=2, host="0.0.0.0")
    share = node_share(2, None, MachineMemory(9 * GIB, 9 * GIB), 8)
    made = commands(options, Path("/h"), Path("/r"), "cluster-1", 8123, share)
    assert [(one.role, one.name) for one in made] == [
        ("controller", "controller"),
        ("gateway", "gateway"),
        ("node", "node-1"),
        ("node", "node-2"),
    ]
    told = [dict(zip(one.argv[3::2], one.argv[4::2], strict=True)) for one in made]
    assert all(
        words.items() >= {"--home": "/h", "--runtime": "/r", "--cluster-id": "cluster-1"}.items()
        for words in told
    )
    assert (told[1]["--host"], told[1]["--port"]) == ("0.0.0.0", "8123")
    assert (told[3]["--node"], told[3]["--memory"]) == ("node-2", str(4 * GIB))
    assert told[3]["--threads"] == "4"
    assert told[3]["--runner"].endswith("-m paceline.runner")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("box.lan", "http://box.lan:8000"),
    ],
)
def test_a_url_leads_there_from_this_machine(host: str, url: str) -> None:
    assert url_of(host, 8000) == url
