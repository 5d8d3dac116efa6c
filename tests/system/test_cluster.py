"""The main job end to end: real processes, real sockets, the real model."""

import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cluster import MODEL, LocalCluster, local_cluster

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("home"), nodes=2) as running:
        running.ready(running.create(min_nodes=2))
        yield running


@pytest.fixture(scope="module")
def client(cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.api.url}/v1", api_key="none", max_retries=0)


def the_instance(cluster: LocalCluster) -> dict:
    (instance,) = cluster.api.get("/api/instances")
    return instance


def test_two_ranks_on_two_nodes_answer(cluster):
    instance = the_instance(cluster)
    runners = sorted(instance["runners"], key=lambda runner: runner["rank"])
    assert instance["world_size"] == 2
    assert [runner["rank"] for runner in runners] == [0, 1]
    assert len({runner["node"] for runner in runners}) == 2
    assert runners[0]["layers"][0] == 0
    assert runners[0]["layers"][1] == runners[1]["layers"][0]
    assert runners[1]["layers"][1] == 30
    assert "Paris" in cluster.ask()


def test_the_openai_client_streams(client):
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert chunks[-1].usage.completion_tokens > 3


def test_the_openai_client_completes_with_everything(client):
    answer = client.completions.create(
        model=MODEL, prompt="The sky is", max_tokens=8, n=2, seed=11, temperature=0.9, logprobs=3
    )
    again = client.completions.create(
        model=MODEL, prompt="The sky is", max_tokens=8, n=2, seed=11, temperature=0.9, logprobs=3
    )
    assert len(answer.choices) == 2
    assert [c.text for c in answer.choices] == [c.text for c in again.choices]
    assert answer.choices[0].text != answer.choices[1].text
    assert len(answer.choices[0].logprobs.token_logprobs) == answer.usage.completion_tokens // 2


def test_a_stop_string_ends_the_answer_before_it(client):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        stop=["Paris"],
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/chat/completions", {"model": "nope", "messages": []}, 404, "nope"),
        ("/v1/chat/completions", {"model": MODEL, "messages": "hi"}, 400, "messages"),
        ("/v1/completions", {"model": MODEL, "prompt": "x", "temperature": "hot"}, 400, "temp"),
        ("/v1/completions", {"model": MODEL, "prompt": "word " * 9000}, 400, "8192"),
        ("/api/instances", {"model": "nope"}, 404, "nope"),
        ("/api/instances", {"model": MODEL, "min_nodes": 0}, 400, "min_nodes"),
        ("/api/instances", {"model": MODEL, "dtype": "float13"}, 400, "float13"),
    ],
)
def test_errors_have_openais_shape_and_the_right_status(cluster, path, body, status, words):
    answer = httpx.post(f"{cluster.api.url}{path}", json=body, timeout=30)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_malformed_json_is_400_and_a_huge_body_413(cluster):
    url = f"{cluster.api.url}/v1/completions"
    assert httpx.post(url, content=b"{nope").status_code == 400
    assert httpx.post(url, content=b"x" * (9 << 20)).status_code == 413


def test_a_client_that_goes_away_frees_its_pages(cluster):
    body = {"model": MODEL, "prompt": "Once upon", "max_tokens": 2000, "ignore_eos": True}
    with (
        httpx.Client(base_url=cluster.api.url, timeout=30) as http,
        http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer,
    ):
        lines = answer.iter_lines()  # held: a generator that is dropped closes the connection
        first = next(lines)
        assert answer.status_code == 200, first
        cluster.wait("it to be counted", lambda: running(cluster) == 1, timeout_s=5)
    cluster.wait("the stream to be freed", lambda: running(cluster) == 0, timeout_s=10)


def running(cluster: LocalCluster) -> float:
    """Requests under way, by the gateway's own count."""
    return sum(samples(cluster, "num_requests_running").values())


def samples(cluster: LocalCluster, name: str, label: str = "") -> dict[str, float]:
    """What a metric has, by one label."""
    families = text_string_to_metric_families(httpx.get(f"{cluster.api.url}/metrics").text)
    (family,) = (f for f in families if f.name == f"paceline_{name}")
    return {sample.labels.get(label, ""): sample.value for sample in family.samples}


def test_strangers_at_the_ports_between_processes_are_counted(cluster):
    asked = {
        "controller": cluster.processes("paceline.controller")[0].pid,
        "node": cluster.processes("local.supervisor")[0].pid,
        "runner": the_instance(cluster)["runners"][0]["pid"],
    }
    for pid in asked.values():
        say_nonsense(psutil.Process(pid))
    counted = lambda: samples(cluster, "strangers", "process")  # noqa: E731
    cluster.wait("all to be counted", lambda: min(counted()[kind] for kind in asked) >= 1, 15)
    assert "Paris" in cluster.ask()


def say_nonsense(process: psutil.Process) -> None:
    """To each local socket that it listens at."""
    paths = {end.laddr for end in process.net_connections("unix") if end.laddr}
    assert paths
    for path in paths:
        with socket.socket(socket.AF_UNIX) as stranger:
            try:
                stranger.connect(path)
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 9)
            except OSError:
                continue  # an end of a connection, and no door


def test_health_ready_models_nodes_and_events(cluster):
    get = lambda path: httpx.get(f"{cluster.api.url}{path}", timeout=30)  # noqa: E731
    assert get("/health").status_code == 200
    assert get("/ready").status_code == 200
    assert [m["id"] for m in get("/v1/models").json()["data"]] == [MODEL]
    nodes = get("/api/nodes").json()
    assert [node["name"] for node in nodes] == ["node-1", "node-2"]
    assert all(node["state"] == "ready" for node in nodes)
    assert any("is ready" in e["sentence"] for e in get("/api/events?follow=false").json())


def test_many_at_once(cluster):
    answers: list[str] = []
    asked = [threading.Thread(target=lambda: answers.append(cluster.ask())) for _ in range(8)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join(60)
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_a_killed_runner_is_replaced_and_the_other_keeps_its_process(cluster):
    found = the_instance(cluster)
    before = {r["rank"]: r["pid"] for r in found["runners"]}
    psutil.Process(before[1]).kill()
    cluster.ready(found["id"], after=found["epoch"])
    after = {r["rank"]: r["pid"] for r in the_instance(cluster)["runners"]}
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert "Paris" in cluster.ask()


def test_a_stream_outlives_the_runner_that_carried_it(cluster):
    body = {
        "model": MODEL,
        "prompt": "Count: one, two, three,",
        "max_tokens": 60,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    calm = cluster.api.post("/v1/completions", body)
    ids: list[int] = []
    victim = next(r["pid"] for r in the_instance(cluster)["runners"] if r["rank"] == 0)
    for event in cluster.api.events("/v1/completions", body | {"stream": True}):
        for choice in event["choices"]:
            ids += choice.get("token_ids") or []
        if victim and len(ids) >= 10:
            psutil.Process(victim).kill()
            victim = 0
    assert victim == 0
    assert ids == calm["choices"][0]["token_ids"]


def test_a_killed_controller_comes_back_and_adopts_what_lives(cluster):
    before = {r["rank"]: r["pid"] for r in the_instance(cluster)["runners"]}
    term = cluster.api.get("/api/status")["term"]
    (controller,) = cluster.processes("paceline.controller")
    controller.send_signal(signal.SIGKILL)
    cluster.wait("a new term", lambda: _term(cluster) > term)
    cluster.wait(
        "the instance to be adopted",
        lambda: the_instance(cluster)["state"] == "ready",
    )
    assert {r["rank"]: r["pid"] for r in the_instance(cluster)["runners"]} == before
    assert "Paris" in cluster.ask()


def _term(cluster: LocalCluster) -> int:
    try:
        return int(cluster.api.get("/api/status")["term"])
    except Exception:
        return -1


def test_a_deleted_instance_leaves_nothing(cluster):
    name = cluster.create(max_nodes=1, kv_tokens=1024)
    pids = [r["pid"] for r in cluster.ready(name)["runners"]]
    cluster.api.delete(f"/api/instances/{name}")
    cluster.wait("it to be gone", lambda: len(cluster.api.get("/api/instances")) == 1)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_what_does_not_fit_waits_and_says_why(cluster):
    name = cluster.create(kv_tokens=2_000_000)
    found = cluster.wait("reasons", lambda: (i := cluster.instance(name))["reasons"] and i)
    cluster.wait("it to wait", lambda: cluster.instance(name)["state"] == "waiting")
    found = cluster.instance(name)
    assert any("node-1: needs" in reason for reason in found["reasons"]), found
    cluster.api.delete(f"/api/instances/{name}")


def test_sigterm_ends_everything_within_five_seconds(tmp_path):
    with local_cluster(tmp_path / "h", nodes=1) as running:
        running.ready(running.create())
        parent = psutil.Process(running.detached.pid)
        family = [parent, *parent.children(recursive=True)]
        assert len(family) >= 5
        began = time.monotonic()
        parent.send_signal(signal.SIGTERM)
        while running.detached.poll() is None:
            assert time.monotonic() - began < 6
            time.sleep(0.05)
        _, alive = psutil.wait_procs(family, timeout=1)
        assert not alive
    assert not (tmp_path / "h" / "run.json").exists()
