import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.process.bounded import BoundedFile, prune
from paceline.process.logs import BoundedHandler

SCRIPT = """
import logging, sys, threading
from pathlib import Path
from paceline.process import logs
logs.configure("runner", "r1", Path(sys.argv[1]), max_bytes=20000, node="a")
log = logs.get_logger("paceline.test")
"""


def run(script: str, log_file: Path, **popen: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", SCRIPT + script, str(log_file)],
        text=True,
        timeout=60,
        **({"capture_output": True} | popen),
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_our_lines_and_those_of_libraries_are_json_with_the_process_in_them(tmp_path: Path) -> None:
    done = run(
        "log.info('shard loaded', rank=1)\nlogging.getLogger('uvicorn').warning('port %d', 8)\n"
        "logging.getLogger('httpx').info('noise')\n",
        tmp_path / "r1.log",
    )
    assert done.returncode == 0
    ours, theirs = lines(tmp_path / "r1.log")
    bound = {"role": "runner", "name": "r1", "node": "a"}
    assert ours.items() >= (bound | {"event": "shard loaded", "rank": 1, "level": "info"}).items()
    assert theirs.items() >= (bound | {"event": "port 8", "logger": "uvicorn"}).items()
    # stderr, which the parent keeps the tail of, has what matters only.
    assert "port 8" in done.stderr
    assert "shard loaded" not in done.stderr


def test_an_uncaught_error_is_in_the_file_and_last_on_stderr(tmp_path: Path) -> None:
    done = run(
        "t = threading.Thread(target=lambda: 1 / 0)\nt.start(); t.join()\n"
        "raise RuntimeError('boom')\n",
        tmp_path / "r1.log",
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: boom")
    in_thread, uncaught = lines(tmp_path / "r1.log")
    assert "ZeroDivisionError" in str(in_thread["exception"])
    assert "RuntimeError: boom" in str(uncaught["exception"])


def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    run("for i in range(2000): log.info('line', i=i)\n", tmp_path / "r1.log")
    assert {path.name for path in tmp_path.iterdir()} == {"r1.log", "r1.log.1"}
    assert all(path.stat().st_size <= 20000 for path in tmp_path.iterdir())
    numbers = [line["i"] for name in ("r1.log.1", "r1.log") for line in lines(tmp_path / name)]
    assert numbers == list(range(2000 - len(numbers), 2000))


@pytest.mark.parametrize("stderr", ["closed", "full", "broken"])
def test_no_state_of_disk_or_stderr_kills(tmp_path: Path, stderr: str) -> None:
    (tmp_path / "full.log").symlink_to("/dev/full")
    reader, writer = os.pipe()
    os.close(reader)
    streams = {
        "closed": None,
        "full": os.open("/dev/full", os.O_WRONLY),
        "broken": writer,
    }
    close = "import os; os.close(2)\n" if stderr == "closed" else ""
    done = run(
        f"{close}for i in range(500): log.warning('line', i=i)\n"
        f"Path({str(tmp_path / 'done')!r}).write_text('still here')\n",
        tmp_path / "full.log",
        capture_output=False,
        stderr=streams[stderr],
    )
    assert (tmp_path / "done").read_text() == "still here"
    assert done.returncode == 0
    os.close(writer)


def test_a_line_that_fits_in_part_does_not_spoil_the_next(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from paceline.process.bounded import BoundedFile\n"
        "file = BoundedFile(Path(sys.argv[1]), max_bytes=1000, backups=0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10**6))\n"
        "assert file.write(b'1234567') and not file.write(b'abcdefg') and file.lost == 1\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "assert file.write(b'next')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.log")], check=True, timeout=60)
    assert (tmp_path / "x.log").read_bytes() == b"1234567\nab\nnext\n"


def test_lost_lines_are_counted_once_there_is_room_again(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.write_text("in the way")
    handler = BoundedHandler(BoundedFile(directory / "x.log", max_bytes=1000, backups=1))
    record = logging.LogRecord("n", logging.INFO, "p", 1, "word", None, None)
    handler.emit(record)
    handler.emit(record)
    directory.unlink()
    handler.emit(record)
    handler.close()
    first, second = (directory / "x.log").read_text().splitlines()
    assert first == "word"
    assert json.loads(second)["lost"] == 2


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    file = BoundedFile(tmp_path / "x.log", max_bytes=1000, backups=0)
    file.write(b"one")
    (tmp_path / "x.log").unlink()
    file.write(b"two")
    assert (tmp_path / "x.log").read_bytes() == b"two\n"


def test_without_backups_the_file_starts_anew(tmp_path: Path) -> None:
    file = BoundedFile(tmp_path / "x.log", max_bytes=10, backups=0)
    for word in (b"123456", b"abcdef"):
        file.write(word)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.log", b"abcdef\n")]


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / f"runner-{age}.log").write_text("")
        os.utime(tmp_path / f"runner-{age}.log", (1000.0 - age, 1000.0 - age))
    (tmp_path / "gateway.log").write_text("")
    prune(tmp_path, "runner-*", keep=2)
    assert {p.name for p in tmp_path.iterdir()} == {"gateway.log", "runner-0.log", "runner-1.log"}
