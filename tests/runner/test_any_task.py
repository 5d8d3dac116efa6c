"""Whatever a controller may send, in whatever order: a real runner process lives, every task ends
once, and afterwards the runner loads a real model and answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from paceline.checkpoint.facts import model_facts
from paceline.checkpoint.manifest import describe, write_manifest
from paceline.types.ids import Seat
from paceline.types.states import RunnerState, TaskState
from tests.engine.tiny import make
from tests.runner.test_real_line import record, text_of
from tests.support.barrage import Barrage
from tests.support.models import smollm2_dir
from tests.support.runners import Runners, place
from tests.support.shots import SHOTS

pytestmark = pytest.mark.real

IN_A_ROW = 50
GRACE_S = 0.02


def home_with_models(path: Path) -> Path:
    """A tiny model, a damaged one, and the real one."""
    models = path / "models"
    for name in ("tiny", "broken"):
        (models / name).mkdir(parents=True)
        make("llama", models / name)
        write_manifest(models / name, describe(models / name, name, "made for a test"))
    weights = models / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (models / smollm2_dir().name).symlink_to(smollm2_dir())
    return path


def any_tasks(home: Path, at_least: int) -> Barrage:
    real = model_facts(smollm2_dir(), smollm2_dir().name)
    options = ("--grace", str(GRACE_S))
    with Runners(home, real.name, place(real, 1, kv_tokens=1024), options) as runners:
        barrage = Barrage(runners)
        while (left := at_least - barrage.tasks) > 0:
            sequences(barrage, 1 + left // IN_A_ROW)
        loads_and_answers(runners)
    return barrage


def sequences(barrage: Barrage, count: int) -> None:
    @settings(
        max_examples=count,
        phases=[Phase.generate],  # the runner is another one after a failure: nothing to shrink
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.booleans(), st.lists(SHOTS, min_size=IN_A_ROW, max_size=IN_A_ROW))
    def fired(ready: bool, shots: list) -> None:
        if ready:
            barrage.lead_to_ready()
        for shot in shots:
            barrage.fire(shot)
        barrage.settle()

    fired()


def loads_and_answers(runners: Runners) -> None:
    """From whatever state the tasks have left it in."""
    facts = runners.seen(0)
    assert facts is not None
    runners.term, runners.n = (facts.epoch.term if facts.epoch else 0) + 1, 1
    if facts.state is RunnerState.DRAINING:
        runners.processes[0].terminate()
        runners.processes[0].wait(10)
        runners.replace(0)
    elif facts.state in (RunnerState.WARMING, RunnerState.READY):
        elsewhere = msgspec.structs.replace(runners.connect(0), seat=Seat("i-other", 0))
        status = runners.outcome(0, elsewhere)
        runners.failed(status, "what is loaded is for")
        runners.n += 1
    assert runners.outcome(0, runners.load(0)).state is TaskState.COMPLETE
    runners.join_line()
    assert "Paris" in text_of(runners.generate([record()])["s-1"][0])


def report(barrage: Barrage) -> None:
    print(f"\n{barrage.tasks} tasks in {barrage.messages} messages, {barrage.stops} stops obeyed")
    for name, count in sorted(barrage.tally.items()):
        print(f"  {count:6} {name}")


def test_a_thousand_tasks_of_any_kind_kill_nothing_and_all_end(tmp_path: Path) -> None:
    barrage = any_tasks(home_with_models(tmp_path), at_least=1_000)
    report(barrage)
    assert_all_was_met(barrage)


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_ten_thousand_tasks_of_any_kind_kill_nothing_and_all_end(tmp_path: Path) -> None:
    barrage = any_tasks(home_with_models(tmp_path), at_least=10_000)
    report(barrage)
    assert_all_was_met(barrage)


def assert_all_was_met(barrage: Barrage) -> None:
    """So that the sequences stay worth something: every end, and every state but the fleeting."""
    ends = {name.split("/")[-1] for name in barrage.tally}
    assert {"complete", "failed", "cancelled", "timed_out"} <= ends, barrage.tally
    met = {"failed", "loaded", "warming", "ready"}
    assert met <= set(barrage.states), barrage.states
