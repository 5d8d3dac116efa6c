"""What the machines of a Ray cluster are told, without Ray."""

from pathlib import Path

import pytest

from paceline.cluster.parent.commands import NodeShare
from paceline.cluster.parent.status import Command
from paceline.cluster.ray import options as module
from paceline.cluster.ray.options import (
    HeadOptions,
    JoinOptions,
    Place,
    check,
    check_room,
    check_sockets,
    control_of,
    head_commands,
    joined_commands,
)
from paceline.cluster.ray.up import numeric
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.timing import DEFAULT_TIMING

PLACE = Place(
    home=Path("/h"),
    runtime=Path("/r"),
    temp=Path("/r/ray"),
    cluster_id="cluster-1",
    port=8123,
    share=NodeShare(2**30, 4),
    ray_token="secret-word",
)


def told(command: Command) -> dict[str, str]:
    return dict(zip(command.argv[3::2], command.argv[4::2], strict=True))


def test_the_head_has_ray_a_controller_a_gateway_and_a_node() -> None:
    made = head_commands(HeadOptions(home="/h", host="10.0.0.1", api_key="sesame"), PLACE)
    assert [one.role for one in made] == ["ray", "controller", "gateway", "node"]
    ray, controller, gateway, node = map(told, made)
    assert ray["--port"] == "8002"
    assert controller["--listen"] == "tcp://10.0.0.1:8001"
    assert controller["--ray-address"] == node["--ray"] == "10.0.0.1:8002"
    assert (gateway["--host"], gateway["--port"]) == ("10.0.0.1", "8123")
    assert node["--memory"] == str(2**30)
    assert "--control" not in node, "its controller is beside it"


def test_secrets_are_on_no_command_line() -> None:
    made = head_commands(HeadOptions(home="/h", host="10.0.0.1", api_key="sesame"), PLACE)
    words = " ".join(word for one in made for word in one.argv)
    assert "sesame" not in words
    assert "secret-word" not in words
    assert made[0].env["RAY_AUTH_TOKEN"] == made[3].env["RAY_AUTH_TOKEN"] == "secret-word"


def test_a_ray_that_is_there_already_is_used_with_its_own_secrets() -> None:
    options = HeadOptions(home="/h", host="10.0.0.1", ray_address="10.0.0.9:6379")
    made = head_commands(options, PLACE)
    assert [one.role for one in made] == ["controller", "gateway", "node"]
    assert told(made[0])["--ray-address"] == told(made[2])["--ray"] == "10.0.0.9:6379"
    assert made[2].env == {}


def test_a_joined_machine_reaches_the_controller_at_the_head() -> None:
    options = JoinOptions(home="/h", host="10.0.0.2", head="10.0.0.1:8001", node="two")
    made = joined_commands(options, PLACE, DEFAULT_TIMING, "10.0.0.1:8002", "sesame")
    assert [one.role for one in made] == ["ray", "gateway", "node"]
    ray, gateway, node = map(told, made)
    assert ray["--head"] == node["--ray"] == "10.0.0.1:8002"
    assert gateway["--control"] == node["--control"] == "tcp://10.0.0.1:8001"
    assert (node["--node"], node["--host"]) == ("two", "10.0.0.2")


@pytest.mark.parametrize(
    ("head", "address"),
    [
        ("10.0.0.1:9000", "tcp://10.0.0.1:9000"),
        ("10.0.0.1", "tcp://10.0.0.1:8001"),
        ("[fd00::1]:9000", "tcp://[fd00::1]:9000"),
        ("[fd00::1]", "tcp://[fd00::1]:8001"),
    ],
)
def test_a_head_may_be_named_without_its_port(head: str, address: str) -> None:
    assert control_of(head) == address


@pytest.mark.parametrize("head", ["", ":8001", "10.0.0.1:port"])
def test_what_is_no_address_is_refused(head: str) -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        control_of(head)


@pytest.mark.parametrize(
    "wrong", [{"host": "my-box"}, {"port": -1}, {"control_port": 65536}, {"node_memory": 0}]
)
def test_what_can_never_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        check(HeadOptions(**{"home": "/h", "host": "10.0.0.1"} | wrong))  # type: ignore[arg-type]


def test_sockets_of_ray_under_too_long_a_path_are_refused() -> None:
    check_sockets(Path("/tmp/paceline-1000/0123abcd/ray"))
    with pytest.raises(InvalidRequest, match="PACELINE_RUNTIME"):
        check_sockets(Path("/tmp") / ("x" * 40))


def test_a_disk_that_is_nearly_full_takes_no_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_room(tmp_path)
    monkeypatch.setattr(module, "LEAST_FREE_BYTES", 2**80)
    with pytest.raises(Unavailable, match="make room"):
        check_room(tmp_path)


def test_a_heads_name_is_looked_up_once() -> None:
    assert numeric("localhost:8001") == "127.0.0.1:8001"
    assert numeric("[::1]:8001") == "[::1]:8001"
    assert numeric("192.168.1.20") == "192.168.1.20:8001"
    with pytest.raises(InvalidRequest, match="cannot be found"):
        numeric("no.such.host.invalid:8001")
