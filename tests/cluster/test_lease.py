"""The lease and what is made of it, with a plain process in the place of Ray's."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.cluster.ray.actor import RunnerActor
from paceline.cluster.ray.lease import Leases, SignedIn, sign_in
from paceline.cluster.ray.runner import ActorRunner
from paceline.process.exits import ChildExit

from .conftest import until

fork = multiprocessing.get_context("fork")


class Agent:
    """One runner, called r-1, that runs `main` in a process of its own."""

    def __init__(self, runtime: Path, tmp_path: Path) -> None:
        self.runner = ActorRunner("r-1", tmp_path / "r-1.out")
        self.leases = Leases(runtime / "lease", self.runner.signed_in)
        self._program = tmp_path / "program.py"
        self.process: multiprocessing.process.BaseProcess | None = None

    def run(self, main: str) -> None:
        self._program.write_text(f"import os, signal, sys, time\ndef main():\n    {main}\n")
        words = (
            str(self.leases.path),
            "r-1",
            os.getpid(),
            (str(self._program),),
            {"WORD": "given"},
        )
        self.process = fork.Process(target=RunnerActor().run, args=words)
        self.process.start()
        until(lambda: self.runner.pid == self.process.pid)

    def ended(self) -> ChildExit:
        until(self.runner.poll)
        ended = self.runner.poll()
        assert ended is not None
        return ended


@pytest.fixture
def agent(runtime: Path, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(runtime, tmp_path)
    yield made
    made.leases.close()
    if made.process is not None:
        made.process.kill()
        made.process.join()


@pytest.mark.parametrize(
    ("main", "code", "words"),
    [
        ("return None", 0, "exit code 0"),
        ("return 3", 3, "exit code 3: it said nothing"),
        ("sys.exit('no room')", 1, "exit code 1: no room"),
        ("raise ValueError('a bug')", 1, "ValueError: a bug"),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15, "SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "killed by SIGKILL"),
        ("import faulthandler; faulthandler.enable(); faulthandler._sigsegv()", -11, "SIGSEGV"),
    ],
)
def test_an_end_shows_with_its_code_and_its_last_words(
    agent: Agent, main: str, code: int, words: str
) -> None:
    agent.run(main)
    ended = agent.ended()
    assert ended.code == code
    assert words in ended.sentence


def test_what_it_says_comes_to_its_agent(agent: Agent, tmp_path: Path) -> None:
    agent.run("print('loaded', os.environ['WORD'], flush=True); os.system('echo native'); return 0")
    assert agent.ended().log_tail == ("loaded given", "native")
    assert (tmp_path / "r-1.out").read_text() == "loaded given\nnative\n"


def test_one_that_ignores_a_signal_is_killed_after_its_grace(agent: Agent) -> None:
    agent.run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    until(lambda: agent.runner._words is not None and agent.runner._words.tail == ("deaf",))
    agent.runner.terminate(0.2, "not needed")
    ended = agent.ended()
    assert (ended.code, ended.sentence) == (-9, "ended by SIGKILL, as asked: not needed")


def test_one_that_was_to_end_before_it_was_there_ends_when_it_comes(agent: Agent) -> None:
    given_up: list[str] = []
    agent.runner.give_up = lambda: given_up.append("once")
    agent.runner.terminate(30.0, "not needed")
    agent.runner.poll()
    agent.run("time.sleep(60)")
    assert agent.ended().code == -signal.SIGTERM
    assert given_up == ["once"]


def test_one_that_does_not_come_in_time_is_gone_and_sent_away_when_it_comes(agent: Agent) -> None:
    agent.runner.terminate(0.0, "not needed")
    ended = agent.ended()
    assert (ended.pid, ended.code > 0) == (0, True)
    assert "did not come to life in time (asked to end: not needed)" in ended.sentence
    life, output = sign_in(str(agent.leases.path), "r-1")
    assert life.recv(1) == b"", "nobody is there for it"
    life.close()
    os.close(output)


def test_what_ray_cannot_bring_to_life_never_was(agent: Agent) -> None:
    assert agent.runner.poll() is None
    agent.runner.failed("the actor's node is gone")
    ended = agent.ended()
    assert (ended.pid, ended.code > 0) == (0, True)
    assert "the actor's node is gone" in ended.sentence


def test_one_that_ended_before_it_was_let_in_has_its_last_words_too(
    runtime: Path, tmp_path: Path
) -> None:
    """On a busy machine its agent comes to the door after Ray has told of its end."""
    came: list[SignedIn] = []
    leases = Leases(runtime / "lease", came.append)
    program = tmp_path / "program.py"
    program.write_text("def main():\n    raise SystemExit('the shard is damaged')\n")
    words = (str(leases.path), "r-1", os.getpid(), (str(program),), {})
    process = fork.Process(target=RunnerActor().run, args=words)
    process.start()
    process.join()
    until(lambda: came)
    runner = ActorRunner("r-1", tmp_path / "r-1.out")
    runner.failed("the actor died unexpectedly")
    assert runner.poll() is None, "it may be at the door"
    runner.signed_in(came[0])
    ended = runner.poll()
    assert ended is not None
    assert (ended.code, ended.log_tail) == (1, ("the shard is damaged",))
    leases.close()


def test_a_stranger_at_the_door_is_turned_away(agent: Agent) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(agent.leases.path))
        stranger.sendall(b"a name and no pipe")
        assert stranger.recv(1) == b""
    agent.run("return 0")
    assert agent.ended().code == 0


def test_a_runner_sees_that_its_agent_is_gone(runtime: Path) -> None:
    came: list[SignedIn] = []
    leases = Leases(runtime / "lease", came.append)
    life, output = sign_in(str(leases.path), "r-1")
    until(lambda: came)
    came[0].close()
    assert life.recv(1) == b""
    leases.close()
    os.close(output)
    with pytest.raises(OSError, match="No such file"):
        sign_in(str(leases.path), "r-2")
