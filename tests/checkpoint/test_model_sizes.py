"""Sizes from a config.json alone are those of the checkpoint that it describes."""

import json
from pathlib import Path

import pytest
import transformers
from msgspec.structs import replace

from paceline.checkpoint.facts import CONFIG_NAME, described_facts, model_facts
from paceline.checkpoint.model_sizes import config_facts
from paceline.types.errors import CheckpointError
from tests.checkpoint.tiny_models import CASES, tiny_model
from tests.cli.test_place import LLAMA_70B


@pytest.mark.parametrize("case", CASES)
def test_a_described_checkpoint_is_as_large_as_the_real_one(case, tmp_path):
    model: transformers.PreTrainedModel = tiny_model(case)
    model.save_pretrained(tmp_path / "real")
    (tmp_path / "described").mkdir()
    config = tmp_path / "described" / CONFIG_NAME
    config.write_bytes((tmp_path / "real" / CONFIG_NAME).read_bytes())
    real, described = model_facts(tmp_path / "real", "m"), described_facts(config, "m")
    same = replace(described, digest=real.digest, disk_bytes=real.disk_bytes)
    assert same == real
    headers = 8 + 200 * sum(1 for _ in model.state_dict())
    assert 0 <= real.disk_bytes - described.disk_bytes < headers


@pytest.mark.parametrize(
    ("dtype", "width"),
    [({}, 4), ({"torch_dtype": "bfloat16"}, 2), ({"dtype": "float16"}, 2), ({"dtype": None}, 4),
     ({"torch_dtype": "torch.float32"}, 4)],
)  # fmt: skip
def test_bytes_on_disk_follow_the_dtype_it_names(dtype, width):
    raw = {key: value for key, value in LLAMA_70B.items() if key != "torch_dtype"} | dtype
    facts = config_facts(raw, "m")
    assert facts.disk_bytes == width * 70_553_706_496


def test_digests_tell_configs_apart():
    wider = LLAMA_70B | {"intermediate_size": 28673}
    turned = dict(reversed(LLAMA_70B.items()))
    assert config_facts(LLAMA_70B, "a").digest == config_facts(turned, "b").digest
    assert config_facts(LLAMA_70B, "a").digest != config_facts(wider, "a").digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "corrupt"),
        ("[]", "corrupt"),
        (json.dumps({"model_type": "perceptron"}), "perceptron"),
        (json.dumps(LLAMA_70B | {"torch_dtype": "int3"}), "int3"),
    ],
)
def test_what_is_wrong_is_said(text, words, tmp_path):
    path: Path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        described_facts(path, "m")
    assert "x.json" in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        described_facts(tmp_path / "none.json", "m")
