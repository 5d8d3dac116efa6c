"""Real signals to real processes of a real line: each time it ends ready, and streams go on with
the same tokens."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator

import httpx
import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from paceline.types.ids import Epoch
from tests.support.cluster import MODEL, LocalCluster, local_cluster
from tests.support.freeze import frozen_thread
from tests.support.models import smollm2_dir
from tests.support.shots import DRAINS, EPOCHS, KNOCKS, UNKNOWN, Knock, epoch_of
from tests.support.small import SMALL, write_small
from tests.support.streams import Stream, body, calm, without_a_break
from tests.support.victims import STATES, Hunter

pytestmark = pytest.mark.real

BY_HAND = 60
"""Tasks that somebody hands over."""
UNREACHABLE_S = 4.0
"""Longer than a node may be silent before it is lost, if nobody vouches for it."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    """With two instances over both nodes: the real model, and a small one that is fast."""
    models = tmp_path_factory.mktemp("models")
    write_small(models)
    (models / MODEL).symlink_to(smollm2_dir())
    with local_cluster(tmp_path_factory.mktemp("home"), models=models) as running:
        yield running


@pytest.fixture(scope="module")
def wanted(cluster) -> dict[str, str]:
    """The instances by model."""
    return {model: cluster.create(model, min_nodes=2, kv_tokens=2048) for model in (MODEL, SMALL)}


@pytest.fixture
def real(cluster, wanted) -> Iterator[str]:
    """The real model's instance, ready before and after."""
    cluster.ready(wanted[MODEL])
    yield wanted[MODEL]
    cluster.ready(wanted[MODEL])


@pytest.fixture
def small(cluster, wanted) -> Iterator[str]:
    """The small model's instance; both are ready before and after."""
    for name in wanted.values():
        cluster.ready(name)
    yield wanted[SMALL]
    for name in wanted.values():
        cluster.ready(name)


def resubmissions(cluster: LocalCluster) -> float:
    families = text_string_to_metric_families(httpx.get(f"{cluster.api.url}/metrics").text)
    return sum(
        sample.value
        for family in families
        if family.name == "paceline_stream_resubmissions"
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def asked(number: int, tokens: int = 250) -> dict:
    return body(number, tokens, SMALL)


# --- a rank ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "state"), [(0, "loading"), (1, "connecting")])
def test_a_rank_that_dies_on_its_way_is_replaced(cluster, real, rank, state):
    Hunter(cluster, real, rank).kill_in(state)


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("rank", "state"), list(itertools.product((0, 1), STATES)))
def test_a_rank_that_dies_in_any_state_is_replaced(cluster, real, rank, state):
    Hunter(cluster, real, rank).kill_in(state)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.proof)])
def test_a_rank_that_stands_still_is_replaced_and_its_stream_goes_on(cluster, small, rank):
    request = asked(10 + rank)
    expected = calm(cluster, request)
    before, epoch = cluster.pids(small), cluster.instance(small)["epoch"]
    stream = Stream(cluster, request)
    stream.until(10)
    os.kill(before[rank], signal.SIGSTOP)
    assert stream.rest() == expected
    cluster.ready(small, after=epoch)
    after = cluster.pids(small)
    assert after[1 - rank] == before[1 - rank]
    assert after[rank] != before[rank]
    cluster.wait("the stopped process to be gone", lambda: not psutil.pid_exists(before[rank]))


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.proof)])
def test_a_rank_that_beats_and_does_not_compute_is_replaced_and_its_stream_goes_on(
    cluster, small, rank
):
    request = asked(15 + rank)
    expected = calm(cluster, request)
    before, epoch = cluster.pids(small), cluster.instance(small)["epoch"]
    with frozen_thread(before[rank], "compute"):
        assert calm(cluster, request) == expected
    cluster.ready(small, after=epoch)
    after = cluster.pids(small)
    assert after[1 - rank] == before[1 - rank]
    assert after[rank] != before[rank]
    stuck = [event["sentence"] for event in cluster.events() if "it is stuck" in event["sentence"]]
    assert any("has not moved for" in sentence for sentence in stuck), stuck


def test_what_cannot_be_survived_is_reported_with_signal_code_and_last_words(cluster, small):
    victim, epoch = cluster.ranks(small)[1], cluster.instance(small)["epoch"]
    os.kill(victim["pid"], signal.SIGSEGV)
    cluster.ready(small, after=epoch)
    gone = [event for event in cluster.events() if event["kind"] == "runner_gone"]
    (told,) = (event for event in gone if event["facts"]["runner"] == victim["id"])
    assert "ended by SIGSEGV (segmentation fault), which nobody here sent" in told["sentence"]
    assert told["facts"]["code"] == -signal.SIGSEGV
    assert any("Segmentation fault" in line for line in told["facts"]["last_words"])


def test_no_task_by_hand_hurts_the_controller_or_ends_the_instance(cluster, small):
    (controller,) = cluster.processes("paceline.controller")
    deadlines = st.sampled_from([0.1, 0.3, 2.0, 0.0, -1.0, 1e308])

    @settings(
        max_examples=BY_HAND,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(KNOCKS, DRAINS, UNKNOWN), EPOCHS, deadlines, st.integers(0, 1))
    def handed_over(knock: Knock, choice: str, deadline_s: float, rank: int) -> None:
        runner = cluster.wait("a runner", lambda: cluster.ranks(small).get(rank))
        newest = cluster.instance(small)["epoch"] or [1, 1]
        task = knock.fields | {
            "kind": knock.kind,
            "epoch": msgspec.to_builtins(epoch_of(choice, Epoch(*newest))),
            "deadline_s": deadline_s,
        }
        url = f"{cluster.api.url}/api/runners/{runner['id']}/tasks?wait=0.05"
        answer = httpx.post(url, content=msgspec.json.encode(task), timeout=30)
        assert answer.status_code < 500, answer.text

    handed_over()
    assert cluster.processes("paceline.controller") == [controller]


# --- everyone else -------------------------------------------------------------------------------


def test_a_controller_that_dies_is_never_noticed_by_a_stream(cluster, small):
    request = asked(20)
    expected = calm(cluster, request)
    before, term, count = cluster.pids(small), cluster.term(), resubmissions(cluster)
    epoch = cluster.instance(small)["epoch"]
    stream = Stream(cluster, request)
    stream.until(10)
    (controller,) = cluster.processes("paceline.controller")
    controller.kill()
    others = without_a_break(cluster, request, until=lambda: cluster.term() > term)
    assert [stream.rest(), *others] == [expected] * (1 + len(others))
    found = cluster.ready(small)
    assert cluster.pids(small) == before
    assert found["epoch"] == epoch
    assert resubmissions(cluster) == count
    adopted = [event for event in cluster.events() if event["kind"] == "adopted"]
    assert adopted, "the new controller says whom it has adopted"


def test_a_gateway_that_dies_is_started_again_and_touches_no_runner(cluster, small):
    before, term, epoch = cluster.pids(small), cluster.term(), cluster.instance(small)["epoch"]
    (gateway,) = cluster.processes("paceline.gateway")
    gateway.kill()
    cluster.wait("another gateway", lambda: cluster.processes("paceline.gateway") != [gateway])
    cluster.wait("it to answer", lambda: cluster.instance(small)["state"] == "ready")
    assert len(calm(cluster, asked(25))) == 250
    assert cluster.pids(small) == before
    assert (cluster.term(), cluster.instance(small)["epoch"]) == (term, epoch)


def test_a_supervisor_that_dies_is_the_loss_of_its_node_and_its_stream_goes_on(cluster, small):
    request = asked(30)
    expected = calm(cluster, request)
    before = cluster.ranks(small)
    nodes = {node["name"]: node["incarnation"] for node in cluster.api.get("/api/nodes")}
    lost = before[1]["node"]
    epoch = cluster.instance(small)["epoch"]
    stream = Stream(cluster, request)
    stream.until(10)
    (supervisor,) = cluster.processes(f"--node {lost} --memory")
    children = supervisor.children()
    assert before[1]["pid"] in {child.pid for child in children}
    supervisor.kill()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert stream.rest() == expected
    cluster.ready(small, after=epoch)
    assert cluster.pids(small)[0] == before[0]["pid"]
    now = {node["name"]: node["incarnation"] for node in cluster.api.get("/api/nodes")}
    assert {node for node in nodes if now[node] != nodes[node]} == {lost}


@pytest.mark.proof
def test_a_supervisor_that_stands_still_moves_nothing_while_its_line_stands(cluster, small):
    before, epoch = cluster.pids(small), cluster.instance(small)["epoch"]
    (supervisor,) = cluster.processes("--node node-1 --memory")
    supervisor.suspend()
    time.sleep(UNREACHABLE_S)
    assert len(calm(cluster, asked(40))) == 250
    supervisor.resume()
    steady = lambda: {node["state"] for node in cluster.api.get("/api/nodes")} == {"ready"}  # noqa: E731
    cluster.wait("the node to be ready", steady)
    assert cluster.pids(small) == before
    assert cluster.ready(small)["epoch"] == epoch


@pytest.mark.proof
def test_a_node_that_falls_silent_is_waited_for_with_the_reason(cluster, small):
    epoch = cluster.instance(small)["epoch"]
    (supervisor,) = cluster.processes("--node node-2 --memory")
    silent = [supervisor, *supervisor.children()]
    for process in silent:
        process.suspend()
    waits = lambda: cluster.instance(small)["state"] == "waiting"  # noqa: E731
    cluster.wait("it to wait", waits)
    reasons = " ".join(cluster.instance(small)["reasons"])
    assert "node-2" in reasons, reasons
    for process in silent:
        process.resume()
    cluster.ready(small, after=epoch)


@pytest.mark.proof
def test_a_blank_runner_that_dies_is_replaced(cluster, small):
    def blanks() -> dict[str, int]:
        runners = cluster.api.get("/api/runners")
        return {r["node"]: r["pid"] for r in runners if r["seat"] is None and r["state"] == "idle"}

    cluster.wait("a blank runner on each node", lambda: len(blanks()) == 2)
    before = blanks()
    os.kill(before["node-1"], signal.SIGKILL)
    another = lambda: blanks().get("node-1") not in (None, before["node-1"])  # noqa: E731
    cluster.wait("another blank runner", another)


def test_after_all_that_it_answers(cluster, real):
    assert "Paris" in cluster.ask()
