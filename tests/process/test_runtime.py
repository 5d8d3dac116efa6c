import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.process.runtime import (
    MAX_SOCKET_PATH,
    ipc_address,
    remove_sockets,
    runtime_directory,
    sweep_sockets,
)
from paceline.types.errors import InvalidRequest, Unavailable


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        base = Path(short) / "base"
        monkeypatch.setenv("PACELINE_RUNTIME", str(base))
        yield base


def test_it_is_private_short_and_the_same_for_the_same_home(base: Path, tmp_path: Path) -> None:
    first = runtime_directory(tmp_path)
    assert first == runtime_directory(tmp_path)
    assert first != runtime_directory(tmp_path / "other")
    assert first.parent == base
    assert stat.S_IMODE(first.stat().st_mode) == stat.S_IMODE(base.stat().st_mode) == 0o700


def test_a_home_and_a_link_to_it_share_one(base: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert runtime_directory(tmp_path / "home") == runtime_directory(tmp_path / "link")


def test_a_symbolic_link_in_its_place_is_refused(base: Path, tmp_path: Path) -> None:
    base.symlink_to(tmp_path)
    with pytest.raises(Unavailable, match="not a directory of yours"):
        runtime_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_open_to_others_is_refused(base: Path, tmp_path: Path) -> None:
    base.mkdir()
    base.chmod(0o755)
    with pytest.raises(Unavailable, match="chmod 700"):
        runtime_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(base: Path, tmp_path: Path) -> None:
    base.mkdir(mode=0o700)
    os.chown(base, 65534, -1)
    with pytest.raises(Unavailable, match="not a directory of yours"):
        runtime_directory(tmp_path)


def test_an_address_is_bindable_up_to_the_limit_and_refused_beyond(base: Path) -> None:
    base.mkdir()
    longest = "n" * (MAX_SOCKET_PATH - len(str(base)) - 1)
    path = ipc_address(base, longest).removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
    with pytest.raises(InvalidRequest, match="107 bytes"):
        ipc_address(base, longest + "n")


def test_the_sweep_knows_paths_with_spaces_and_a_kernel_that_tells_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = base / "a b"
    runtime.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(runtime / "alive"))
        os.utime(runtime / "alive", (1.0, 1.0))
        assert sweep_sockets(runtime) == []
        for told in ("Num RefCount\n", None):
            table = runtime / "table"
            table.write_text(told) if told else table.unlink()
            monkeypatch.setattr("paceline.process.runtime._UNIX_SOCKETS", table)
            assert sweep_sockets(runtime) == []
        assert (runtime / "alive").exists()


def test_the_sweep_takes_dead_sockets_and_nothing_else(base: Path) -> None:
    base.mkdir()
    dead, fresh, plain = base / "dead", base / "fresh", base / "plain"
    for path in (dead, fresh):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    plain.write_text("")
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(base / "alive"))
        for path in (dead, base / "alive", plain):
            os.utime(path, (1.0, 1.0))
        assert sweep_sockets(base) == [dead]
        assert {path.name for path in base.iterdir()} == {"alive", "fresh", "plain"}
        remove_sockets(base)
        assert {path.name for path in base.iterdir()} == {"plain"}
