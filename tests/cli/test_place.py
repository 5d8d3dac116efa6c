"""`paceline place` on clusters that are only described."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.checkpoint.facts import config_facts, model_facts
from tests.cli.test_commands import paceline
from tests.support.dialogpt import CONFIG as DIALOGPT
from tests.support.models import smollm2_dir

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "cluster.toml"

SEVENTY_B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
"""The published shape of a Llama of 70.6 billion parameters."""


@pytest.fixture
def seventy(tmp_path: Path) -> Path:
    path = tmp_path / "llama-70b" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(SEVENTY_B))
    return path


def described(tmp_path: Path, *nodes: tuple[str, str]) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text("".join(f'[[node]]\nname = "{n}"\nmemory = "{m}"\n' for n, m in nodes))
    return path


def place(home: Path, model: Path | str, cluster: Path, *words: str):
    done = paceline("place", str(model), "--cluster", str(cluster), *words, "--json", home=home)
    return done, json.loads(done.stdout)


def test_sizes_follow_from_a_config_alone(seventy: Path, tmp_path: Path) -> None:
    facts = config_facts(seventy, "big")
    params = sum(facts.layer_params) + facts.embed_params + facts.head_params
    assert params == 70_553_706_496
    assert facts.disk_bytes == 2 * params
    real = model_facts(smollm2_dir(), "s")
    same = config_facts(smollm2_dir() / "config.json", "s")
    assert (same.layer_params, same.embed_params, same.head_params, same.tied) == (
        real.layer_params,
        real.embed_params,
        real.head_params,
        real.tied,
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DIALOGPT))
    assert sum(config_facts(path, "d").layer_params) == 24 * 12_596_224


def test_a_model_that_no_machine_here_could_hold_is_planned(seventy: Path, tmp_path: Path) -> None:
    nodes = [(f"big-{n}", "128GiB") for n in range(1, 5)]
    done, found = place(tmp_path, seventy, described(tmp_path, *nodes), "--dtype", "float32")
    assert done.returncode == 0
    seats = found["placement"]["seats"]
    assert len(seats) == 3
    assert seats[0]["shard"]["start"] == 0
    assert seats[-1]["shard"]["stop"] == 80
    assert all(seat["memory_bytes"] <= 128 * 2**30 for seat in seats)
    predicted = found["placement"]["forecast"]
    assert predicted["seconds_per_token"] > 0
    assert predicted["tokens_per_s"] >= 1 / predicted["seconds_per_token"]
    assert found["reasons"]


def test_what_fits_nowhere_is_told_node_by_node(seventy: Path, tmp_path: Path) -> None:
    cluster = described(tmp_path, ("small-1", "8GiB"), ("small-2", "4GiB"))
    done, found = place(tmp_path, seventy, cluster)
    assert done.returncode == 1
    assert found["placement"] is None
    words = " ".join(found["reasons"])
    assert "small-1" in words
    assert "small-2" in words
    assert "GiB" in words


def test_the_documented_example_is_planned_as_printed(seventy: Path, tmp_path: Path) -> None:
    done, found = place(tmp_path, seventy, EXAMPLE)
    assert done.returncode in (0, 1), done.stderr
    assert found["reasons"]
    shown = paceline("place", str(smollm2_dir()), "--cluster", str(EXAMPLE), home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "ms per token" in shown.stdout
    assert "gremlin" in shown.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[node]]\nname = 'a'\n", "memory"),
        ("[[node]]\nname = 'a'\nmemory = 'much'\n", "'much' is no size"),
        ("[[nodes]]\n", "nodes"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\n" * 2, "described more than once"),
    ],
)
def test_a_wrong_description_is_told_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    done, found = place(tmp_path, "anything", path)
    assert done.returncode != 0
    assert words in found["error"]["message"]
    assert "wrong.toml" in found["error"]["message"]


def test_a_model_that_is_nowhere_is_told(tmp_path: Path) -> None:
    done, found = place(tmp_path, "no-such-model", described(tmp_path, ("a", "1GiB")))
    assert done.returncode != 0
    assert found["error"]["code"] == "not_found"
