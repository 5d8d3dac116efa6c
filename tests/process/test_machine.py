import mmap
import os
from pathlib import Path

import psutil

from paceline.process import memory
from paceline.process.cpus import usable_cpus
from paceline.process.memory import anonymous_bytes, machine_memory, oom_kills

MIB = 2**20


def layout(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_anonymous_memory_grows_with_what_we_hold() -> None:
    before = anonymous_bytes(os.getpid())
    # Fresh pages of our own: an allocator may hand out memory that was resident before.
    held = mmap.mmap(-1, 40 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * (40 * MIB))
    after = anonymous_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert 30 * MIB < after - before < 60 * MIB
    assert len(held) == 40 * MIB


def test_a_process_that_is_gone_has_none() -> None:
    assert anonymous_bytes(2**22 + 1) is None


def test_without_limits_the_machine_decides(tmp_path: Path) -> None:
    found = machine_memory(tmp_path / "none", tmp_path)
    assert found.total == psutil.virtual_memory().total
    assert 0 < found.available <= found.total


def test_the_tightest_level_of_version_2_decides(tmp_path: Path) -> None:
    layout(
        tmp_path,
        {
            "self": "0::/outer/inner\n",
            "outer/memory.max": f"{100 * MIB}\n",
            "outer/memory.current": f"{70 * MIB}\n",
            "outer/memory.stat": f"anon 5\ninactive_file {10 * MIB}\n",
            "outer/inner/memory.max": "max\n",
            "outer/inner/memory.current": f"{20 * MIB}\n",
        },
    )
    found = machine_memory(tmp_path / "self", tmp_path)
    assert (found.total, found.available) == (100 * MIB, 40 * MIB)


def test_version_1_in_a_container_whose_own_path_is_not_mounted(tmp_path: Path) -> None:
    layout(
        tmp_path,
        {
            "self": "4:memory:/docker/abc\n0::/\n",
            "memory/memory.limit_in_bytes": f"{64 * MIB}\n",
            "memory/memory.usage_in_bytes": f"{80 * MIB}\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        },
    )
    found = machine_memory(tmp_path / "self", tmp_path)
    assert (found.total, found.available) == (64 * MIB, 0)
    assert oom_kills(tmp_path / "self", tmp_path) == 3


def test_processors_are_cut_by_a_quota(tmp_path: Path) -> None:
    layout(tmp_path, {"self": "0::/a\n", "a/cpu.max": "50000 100000\n"})
    assert usable_cpus(tmp_path / "self", tmp_path) == 1
    layout(tmp_path, {"a/cpu.max": "max 100000\n"})
    assert usable_cpus(tmp_path / "self", tmp_path) == len(os.sched_getaffinity(0))
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def test_the_real_files_of_this_machine_can_be_read() -> None:
    found = machine_memory()
    assert 0 < found.available <= found.total <= psutil.virtual_memory().total
    assert memory.oom_kills() is not None
