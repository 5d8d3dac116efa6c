from __future__ import annotations

import json

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from paceline.checkpoint.families import FAMILIES, parse_config
from paceline.checkpoint.rope import (
    DefaultRope,
    FactorsRope,
    LinearRope,
    Llama3Rope,
    YarnRope,
    parse_rope,
)
from paceline.types.errors import CheckpointError

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 4096,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 4}
MISTRAL = QWEN2 | {"model_type": "mistral"}
GPT2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 64, "n_layer": 3, "n_head": 4}


@pytest.mark.parametrize(
    "config", [LlamaConfig(), MistralConfig(), Qwen2Config(), Qwen3Config(), GPT2Config()]
)
def test_every_family_reads_what_transformers_writes(config):
    model = parse_config(json.loads(config.to_json_string()))
    assert model.family == config.model_type
    assert len(model.layers) == config.num_hidden_layers
    assert model.heads == config.num_attention_heads
    assert model.width == config.hidden_size
    assert model.max_context == config.max_position_embeddings
    assert model.tied == config.tie_word_embeddings


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_missing_options_default_as_in_transformers(family):
    raw = LLAMA | {"model_type": family, "num_attention_heads": 32}
    del raw["max_position_embeddings"]
    classes = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
    full = {c.model_type: c for c in classes}[family].from_dict(raw)
    assert parse_config(raw) == parse_config(json.loads(full.to_json_string()))


def test_shapes_that_follow_from_others():
    model = parse_config(LLAMA)
    assert (model.kv_heads, model.head_dim, model.kv_width, model.q_width) == (8, 8, 64, 64)
    assert parse_config(LLAMA | {"head_dim": 32}).q_width == 256
    assert parse_config(GPT2).mlp_width == 256
    assert parse_config(GPT2 | {"n_inner": 50}).mlp_width == 50


def test_gpt2_query_scales():
    inverse = parse_config(GPT2 | {"scale_attn_by_inverse_layer_idx": True})
    assert [layer.query_scale for layer in inverse.layers] == [0.25, 0.125, 0.25 / 3]
    plain = parse_config(GPT2 | {"scale_attn_weights": False})
    assert {layer.query_scale for layer in plain.layers} == {1.0}


@pytest.mark.parametrize(
    ("raw", "windows"),
    [
        (LLAMA | {"sliding_window": 8}, [0, 0, 0, 0]),
        (MISTRAL, [4096] * 4),
        (MISTRAL | {"sliding_window": None}, [0] * 4),
        (MISTRAL | {"sliding_window": 7}, [7] * 4),
        (QWEN2 | {"sliding_window": 7}, [0] * 4),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": 7}, [0] * 4),
        (
            QWEN2 | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3},
            [0, 0, 0, 7],
        ),
        (
            QWEN2
            | {
                "use_sliding_window": True,
                "sliding_window": 7,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            [7, 0, 7, 0],
        ),
    ],
)
def test_windows(raw, windows):
    assert [layer.window for layer in parse_config(raw).layers] == windows


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({}, "model_type None"),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"model_type": "mamba"}, "'mamba' is not supported; supported are llama"),
        ({"model_type": "llama"}, "missing required field"),
        (LLAMA | {"hidden_size": "64"}, r"\$.hidden_size"),
        (LLAMA | {"num_hidden_layers": 0}, r"\$.num_hidden_layers"),
        (LLAMA | {"num_key_value_heads": 3}, "do not divide into 3 KV heads"),
        (LLAMA | {"head_dim": 7}, "even head_dim"),
        (LLAMA | {"hidden_act": "xielu"}, "'xielu'"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        (LLAMA | {"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        (LLAMA | {"rope_scaling": {"rope_type": "linear"}}, "missing required field `factor`"),
        (LLAMA | {"rope_parameters": {"mrope_section": [1, 2]}}, "mrope_section"),
        (LLAMA | {"rope_scaling": "linear"}, "rope settings"),
        (LLAMA | {"rope_scaling": {"rope_type": "factors", "factors": [1.0]}}, "1 factors for 4"),
        (MISTRAL | {"attention_bias": True}, "no biases"),
        (MISTRAL | {"layer_types": ["full_attention"] * 4}, r"\$.layer_types"),
        (QWEN2 | {"attention_bias": False}, "biases on q, k and v"),
        (QWEN2 | {"layer_types": ["full_attention"]}, "a kind for each layer"),
        (QWEN2 | {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        (QWEN2 | {"layer_types": ["sliding_attention"] * 4}, "no sliding window is in use"),
        (QWEN2 | {"model_type": "qwen3", "mlp_bias": True}, "mlp_bias"),
        (GPT2 | {"n_head": 5}, "n_head"),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_what_is_not_honoured_is_refused(raw, reason):
    with pytest.raises(CheckpointError, match=reason):
        parse_config(raw)


def test_the_refusals_above_start_from_configs_that_parse():
    for raw in (LLAMA, MISTRAL, QWEN2, GPT2):
        assert raw["model_type"] in FAMILIES
        parse_config(raw)


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("raw", "rope"),
    [
        ({}, DefaultRope()),
        ({"rope_theta": 500000}, DefaultRope(rope_theta=500000.0)),
        ({"rope_theta": 5.0, "rope_scaling": None}, DefaultRope(rope_theta=5.0)),
        (
            {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
            DefaultRope(rope_theta=7.0),
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, LinearRope(factor=2.0)),
        (
            {"rope_theta": 3.0, "rope_scaling": {"rope_type": "llama3"} | LLAMA3},
            Llama3Rope(rope_theta=3.0, **LLAMA3),
        ),
        (
            {"rope_parameters": {"rope_theta": 3.0, "rope_type": "llama3"} | LLAMA3},
            Llama3Rope(rope_theta=3.0, **LLAMA3),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            YarnRope(factor=4.0, original_max_position_embeddings=2048),
        ),
        (
            {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 512}},
            YarnRope(factor=4.0, original_max_position_embeddings=512),
        ),
        (
            {"rope_scaling": {"rope_type": "factors", "factors": [1, 2.5]}},
            FactorsRope(factors=(1.0, 2.5)),
        ),
        ({"rope_parameters": {"partial_rotary_factor": 1.0}}, DefaultRope()),
    ],
)
def test_rope_in_both_styles(raw, rope):
    assert parse_rope(raw, max_context=2048) == rope
