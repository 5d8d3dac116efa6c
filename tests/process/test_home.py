import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from paceline.process.files import write_whole
from paceline.process.home import Home, RunInfo
from paceline.types.errors import Unavailable

INFO = RunInfo(
    url="http://127.0.0.1:8000", pid=1, cluster_id="cluster-1", started_at=2.5, api_key="secret"
)


def test_home_comes_from_argument_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "from-environment"))
    assert Home().path == tmp_path / "from-environment"
    assert Home(tmp_path / "given").path == tmp_path / "given"
    monkeypatch.delenv("PACELINE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home().path == tmp_path / ".paceline"


def test_a_home_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="PACELINE_HOME"):
        Home(tmp_path / "file" / "home").create()


def test_run_info_is_whole_and_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.read_run() is None
    home.write_run(INFO)
    assert home.read_run() == INFO
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600
    (tmp_path / "run.json").write_text('{"url": "http')
    assert home.read_run() is None
    home.remove_run()
    home.remove_run()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "f", b"old")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_the_directory_is_synced_once_it_has_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def note(fd: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{fd}").readlink()), (tmp_path / "f").exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "f", b"new")
    assert [there for _, there in synced] == [False, True]
    assert synced[-1] == (str(tmp_path), True)


def test_cluster_id_is_made_once(tmp_path: Path) -> None:
    made = Home(tmp_path).cluster_id()
    assert made.startswith("cluster-")
    assert Home(tmp_path).cluster_id() == made


HOLD = """
import sys
from paceline.process.home import Home
with Home(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        home = Home(tmp_path)
        home.write_run(msgspec.structs.replace(INFO, pid=holder.pid))
        try:
            with pytest.raises(Unavailable) as refused, home.lock():
                pass
        finally:
            holder.kill()
    for word in (f"process {holder.pid}", "http://127.0.0.1:8000", "since 20", "paceline down"):
        assert word in str(refused.value)
    # The kernel freed it at the holder's death; the words it left behind are overwritten.
    with Home(tmp_path).lock():
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_can_be_taken_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with Home(tmp_path).lock():
            pass
