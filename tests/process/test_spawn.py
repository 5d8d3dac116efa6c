import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from paceline.process.child import PARENT_GONE
from paceline.process.exits import exit_sentence
from paceline.process.last_words import MAX_LINE, TAIL_LINES
from paceline.process.spawn import Child

WATCH = "from paceline.process.child import watch_parent, install_stop_signals\n"
SLEEP = "import time\ntime.sleep(60)\n"

Spawn = Callable[..., Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    started: list[Child] = []

    def start(script: str, **options: object) -> Child:
        child = Child([sys.executable, "-c", script], name="test", **options)  # type: ignore[arg-type]
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill("the test is over")
        assert child.wait(10)


def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# --- being heard ---------------------------------------------------------------------------------


def test_the_end_is_reported_with_code_and_last_words(spawn: Spawn, tmp_path: Path) -> None:
    child = spawn("print('loading'); raise SystemExit('no such model')", output=tmp_path / "out")
    ended = child.wait(15)
    assert ended is not None
    assert (ended.code, ended.log_tail) == (1, ("loading", "no such model"))
    assert ended.sentence == "ended with exit code 1: no such model"
    assert (tmp_path / "out").read_text() == "loading\nno such model\n"
    assert child.poll() is ended


def test_the_tail_is_bounded_in_lines_and_width(spawn: Spawn) -> None:
    ended = spawn("for i in range(3000): print(i)\nprint('x' * 100_000, end='')").wait(15)
    assert ended is not None
    assert len(ended.log_tail) == TAIL_LINES
    assert ended.log_tail[-1] == "x" * MAX_LINE
    assert all(len(line) <= MAX_LINE for line in ended.log_tail)


def test_a_program_that_is_not_there_raises_and_leaks_nothing() -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="No such file"):
        Child(["/no/such/program"], name="none")
    assert psutil.Process().num_fds() == before


def test_an_ended_child_leaves_no_descriptor(spawn: Spawn) -> None:
    before = psutil.Process().num_fds()
    for _ in range(3):
        assert spawn("pass").wait(15)
    assert psutil.Process().num_fds() == before


# --- being ended ---------------------------------------------------------------------------------


def test_terminate_lets_it_end_by_itself(spawn: Spawn) -> None:
    child = spawn(
        WATCH + "import threading\nstop = threading.Event()\n"
        "install_stop_signals(lambda _: stop.set())\nprint('up', flush=True)\n"
        "stop.wait(60)\nprint('bye')"
    )
    until(lambda: child.tail)
    child.terminate(30, "not needed any more")
    ended = child.wait(15)
    assert ended is not None
    assert (ended.code, ended.log_tail[-1]) == (0, "bye")
    assert "not needed any more" in ended.sentence


@pytest.mark.parametrize("deaf", ["ignores", "stopped"])
def test_terminate_escalates_when_the_grace_is_over(spawn: Spawn, deaf: str) -> None:
    now = [0.0]
    child = spawn(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n"
        + SLEEP,
        clock=lambda: now[0],
    )
    until(lambda: child.tail)
    if deaf == "stopped":
        os.kill(child.pid, signal.SIGSTOP)
    child.terminate(5, "going")
    child.terminate(50, "going, said again and later")
    now[0] = 4.9
    assert child.wait(0.1) is None
    now[0] = 5.0
    ended = child.wait(15)
    assert ended is not None
    assert ended.code == -signal.SIGKILL
    assert ended.sentence == "ended by SIGKILL, as asked: going"


def test_helpers_of_a_child_end_with_it(spawn: Spawn) -> None:
    child = spawn(
        "import subprocess, sys\n"
        "helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(helper.pid, flush=True)"
    )
    ended = child.wait(15)
    assert ended is not None
    until(lambda: gone(int(ended.log_tail[0])))


def test_a_child_is_not_in_the_group_that_a_terminal_interrupts(spawn: Spawn) -> None:
    child = spawn(SLEEP)
    until(lambda: os.getpgid(child.pid) == child.pid)
    assert os.getsid(child.pid) == child.pid


# --- ending with the parent ----------------------------------------------------------------------

PARENT = """
import sys, time
from paceline.process.spawn import Child
child = Child([sys.executable, "-c", sys.argv[1]], name="c", kernel_kills=sys.argv[2] == "True")
while not child.tail:
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(60)
"""
WATCHED = {
    "ends itself": "watch_parent(lambda: os._exit(0))\n",
    "is deaf to it": "watch_parent(lambda: None, grace_s=0.2)\n",
    "fails at it": "watch_parent(lambda: 1 / 0)\n",
    "is stopped": "watch_parent(lambda: None)\n",
    "hangs": "watch_parent(lambda: time.sleep(60), grace_s=60)\n",
}


@pytest.mark.parametrize(
    ("child", "kernel_kills"),
    [
        ("ends itself", False),
        ("is deaf to it", False),
        ("fails at it", False),
        ("is stopped", True),
        ("hangs", True),
    ],
)
def test_a_child_does_not_outlive_a_killed_parent(child: str, kernel_kills: bool) -> None:
    script = f"import os, time\n{WATCH}{WATCHED[child]}print('up', flush=True)\n{SLEEP}"
    argv = [sys.executable, "-c", PARENT, script, str(kernel_kills)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if child == "is stopped":
            os.kill(pid, signal.SIGSTOP)
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid))


def test_a_child_whose_parent_was_gone_before_it_looked_ends() -> None:
    reader, writer = os.pipe()
    argv = [sys.executable, "-c", WATCH + "watch_parent(lambda: None)\n" + SLEEP]
    # A parent that is none of ours: what a child sees when it was handed on before it looked.
    env = os.environ | {"PACELINE_LIFE": f"{reader}:1:1"}
    with subprocess.Popen(argv, pass_fds=[reader], env=env) as child:
        assert child.wait(15) == PARENT_GONE
    os.close(reader)
    os.close(writer)


def test_without_a_parent_that_promised_nothing_is_watched() -> None:
    script = WATCH + "assert watch_parent(lambda: None) is False"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_grandchildren_do_not_inherit_the_word(spawn: Spawn) -> None:
    ended = spawn(
        WATCH + "import os\nwatch_parent(lambda: None)\nprint('PACELINE_LIFE' in os.environ)"
    ).wait(15)
    assert ended is not None
    assert ended.log_tail == ("False",)


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "tail", "asked", "oom", "words"),
    [
        (0, (), "", None, ["exit code 0"]),
        (3, ("Traceback", "KeyError: 'x'", " "), "", None, ["exit code 3", "KeyError: 'x'"]),
        (3, (), "", None, ["exit code 3", "said nothing"]),
        (PARENT_GONE, (), "", None, ["parent was gone"]),
        (-11, (), "", False, ["SIGSEGV", "segmentation fault"]),
        (-11, (), "stop", False, ["SIGSEGV", "segmentation fault"]),
        (-15, (), "instance deleted", None, ["SIGTERM", "as asked", "instance deleted"]),
        (-9, (), "instance deleted", True, ["SIGKILL", "as asked", "instance deleted"]),
        (-9, (), "", True, ["SIGKILL", "out-of-memory killer was at work"]),
        (-9, (), "", None, ["SIGKILL, which nobody here sent", "out-of-memory killer does that"]),
        (-9, (), "", False, ["SIGKILL, which nobody here sent", "nor did the kernel"]),
        (-60, (), "", None, ["signal 60"]),
    ],
)
def test_exit_sentences(
    code: int, tail: tuple[str, ...], asked: str, oom: bool | None, words: list[str]
) -> None:
    sentence = exit_sentence(code, tail, asked=asked, oom_killed=oom)
    assert [word for word in words if word not in sentence] == []


def test_a_real_kill_from_elsewhere_is_told_apart(spawn: Spawn) -> None:
    child = spawn(SLEEP)
    os.kill(child.pid, signal.SIGKILL)
    ended = child.wait(15)
    assert ended is not None
    assert ended.code == -signal.SIGKILL
    assert "SIGKILL" in ended.sentence
    assert "asked" not in ended.sentence
