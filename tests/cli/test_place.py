"""`paceline place --cluster`: plans for machines that are only described."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import paceline
from tests.support.models import smollm2_dir

LLAMA_70B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}

CLUSTER = """
[links]
round_trip_ms = 0.3
bandwidth = "1.2GB/s"

[[node]]
name = "big"
memory = "192GiB"
speed = "80GB/s"

[[node]]
name = "mid-1"
memory = "96GiB"
speed = "40GB/s"

[[node]]
name = "mid-2"
memory = "96GiB"
reserved = "2GiB"
speed = "40GB/s"

[[node]]
name = "small"
memory = "16GiB"
speed = "20GB/s"

[[link]]
between = ["big", "mid-1"]
bad = true
"""


@pytest.fixture
def described(tmp_path) -> Path:
    """A directory `seventy` with nothing but a config.json, and a cluster.toml beside it."""
    (tmp_path / "seventy").mkdir()
    (tmp_path / "seventy" / "config.json").write_text(json.dumps(LLAMA_70B))
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    return tmp_path


def place(at: Path, *words: str, model: str = "seventy/config.json"):
    options = ("--cluster", str(at / "cluster.toml"), "--dtype", "float32")
    return paceline("place", str(at / model), *options, *words, home=at / "home")


def found(at: Path, *words: str, **options: str) -> dict:
    told = place(at, *words, "--json", **options)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_a_model_that_no_machine_here_could_hold_is_planned(described):
    shown = found(described)
    assert (shown["model"], shown["objective"]) == ("seventy", "latency")
    assert shown["disk_bytes"] == 2 * 70_553_706_496
    seats = shown["placement"]["seats"]
    assert sorted(seat["node"] for seat in seats) == ["big", "mid-2"]
    stops = [seat["shard"]["stop"] for seat in seats]
    assert [seat["shard"]["start"] for seat in seats] == [0, *stops[:-1]]
    assert stops[-1] == 80
    forecast = shown["placement"]["forecast"]
    assert sum(rank["weight_bytes"] for rank in forecast["ranks"]) == 4 * 70_553_706_496
    assert all(rank["memory_bytes"] <= rank["free_bytes"] for rank in forecast["ranks"])
    assert forecast["seconds_per_token"] > 1 / forecast["tokens_per_s"] > 0
    assert not (described / "home").exists()


def test_objectives_and_bounds_are_heeded(described):
    latency, throughput, memory = (
        found(described, "--objective", objective)["placement"]
        for objective in ("latency", "throughput", "memory")
    )
    predicted = [each["forecast"] for each in (latency, throughput, memory)]
    assert predicted[1]["tokens_per_s"] > predicted[0]["tokens_per_s"]
    assert predicted[0]["seconds_per_token"] < predicted[1]["seconds_per_token"]
    fullest = [max(rank["memory_bytes"] for rank in each["ranks"]) for each in predicted]
    assert fullest[2] < fullest[1]
    three = found(described, "--min-nodes", "3", "--max-nodes", "3")
    assert len(three["placement"]["seats"]) == 3


def test_for_people_it_is_a_table_and_sentences(described):
    told = place(described)
    assert told.returncode == 0, told.stderr
    for words in ("RANK", "WEIGHTS", "big", "mid-2", "per token for one stream", "192.0 GiB"):
        assert words in told.stdout
    assert "2 nodes, because the model does not fit on one" in told.stdout


def test_a_refusal_says_why_and_fails(described):
    told = place(described, "--max-nodes", "1")
    assert told.returncode == 1
    assert "seventy does not fit on 1 node (max_nodes)" in told.stdout
    assert "big: needs 281.8 GiB for layers 0–79, has 192.0 GiB free of 192.0" in told.stdout
    as_json = place(described, "--max-nodes", "1", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["placement"] is None


def test_a_directory_with_a_config_will_do(described):
    assert found(described, model="seventy") == found(described)


@pytest.mark.parametrize(
    ("model", "cluster", "words"),
    [
        ("nothing-here", CLUSTER, "nothing-here"),
        ("seventy", "[[node]]\nname = 'a'\n", "cluster.toml: no cluster description"),
        ("seventy", "[[node]]\nname = 'a'\nmemory = 'x'\n", "cluster.toml: 'x' is no size"),
    ],
)
def test_what_is_wrong_is_said(described, model, cluster, words):
    (described / "cluster.toml").write_text(cluster)
    told = place(described, model=model)
    assert told.returncode == 1
    assert words in told.stderr
    assert "Traceback" not in told.stderr


def test_a_cluster_file_that_is_not_there(described):
    (described / "cluster.toml").unlink()
    told = place(described)
    assert told.returncode == 1
    assert "cluster.toml cannot be read" in told.stderr


def test_an_empty_cluster_waits_for_a_node(described):
    (described / "cluster.toml").write_text("")
    told = place(described)
    assert told.returncode == 1
    assert "no node is ready" in told.stdout


def test_a_stored_model_is_planned_by_its_name(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(smollm2_dir().parent)
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    told = paceline(
        "place", smollm2_dir().name, "--cluster", str(tmp_path / "cluster.toml"), "--json",
        home=home,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert [s["node"] for s in json.loads(told.stdout)["placement"]["seats"]] == ["big"]
