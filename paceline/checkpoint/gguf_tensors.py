"""The weights of a GGUF file under Hugging Face's names, shapes and row order.

Matrices become float16 and one-dimensional tensors float32. Memory stays near one safetensors
file (`max_file_bytes`) plus one block of rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file

from paceline.checkpoint.gguf_config import ROPE_TENSORS, Metadata, is_tied
from paceline.checkpoint.gguf_file import GgufFile, GgufTensor
from paceline.checkpoint.progress import OnProgress, Progress

MAX_FILE_BYTES = 1 << 30
_BLOCK_ELEMENTS = 1 << 22
_GROUP_ELEMENTS = 1 << 16

_LLAMA_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_CONV1D = frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"})
"""GPT-2 keeps these as (in, out); GGUF stores every matrix as (out, in)."""

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTER = re.compile(r"(\w+)\.(weight|bias)")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one tensor."""

    name: str
    interleaved_heads: int = 0
    """Heads whose rope pairs GGUF keeps side by side; Hugging Face keeps halves. 0: as it is."""
    transposed: bool = False


def rule(metadata: Metadata, name: str) -> Rule | None:
    """The rule for a GGUF tensor; None for one that is no weight of the checkpoint.

    Raises CheckpointError for a tensor that the architecture does not have.
    """
    if name in ROPE_TENSORS or (name == "output.weight" and is_tied(metadata.file)):
        return None
    gpt2 = metadata.arch == "gpt2"
    if layer := _LAYER.fullmatch(name):
        index, part, kind = layer.groups()
        renamed = (_GPT2_LAYER if gpt2 else _LLAMA_LAYER).get(part)
        prefix = f"transformer.h.{index}" if gpt2 else f"model.layers.{index}"
        if renamed:
            return Rule(
                name=f"{prefix}.{renamed}.{kind}",
                interleaved_heads=_interleaved_heads(metadata, part),
                transposed=gpt2 and part in _CONV1D and kind == "weight",
            )
    elif outer := _OUTER.fullmatch(name):
        part, kind = outer.groups()
        renamed = (_GPT2_OUTER if gpt2 else _LLAMA_OUTER).get(part)
        if renamed:
            return Rule(name=f"{renamed}.{kind}")
    raise metadata.file.error(f"tensor {name!r} is not known for architecture {metadata.arch}")


def _interleaved_heads(metadata: Metadata, part: str) -> int:
    if metadata.arch != "llama" or part not in ("attn_q", "attn_k"):
        return 0
    heads = metadata.size("{}.attention.head_count")
    if part == "attn_q":
        return heads
    return metadata.find("{}.attention.head_count_kv", int) or heads


def convert(file: GgufFile, tensor: GgufTensor, how: Rule) -> NDArray[np.generic]:
    """One tensor as it goes to disk: contiguous, float16 if a matrix, else float32."""
    values = _dequantised(file, tensor)
    if how.interleaved_heads:
        values = _halves(file, tensor, values, how.interleaved_heads)
    if how.transposed:
        values = values.T
    return np.ascontiguousarray(values)


def _dequantised(file: GgufFile, tensor: GgufTensor) -> NDArray[np.generic]:
    dtype = np.float32 if len(tensor.shape) == 1 else np.float16
    out = np.empty(tensor.elements, dtype)
    block_elements, block_bytes = GGML_QUANT_SIZES[tensor.quantisation]
    step = _BLOCK_ELEMENTS // block_elements
    raw = file.raw(tensor).reshape(-1, block_bytes)
    for first in range(0, len(raw), step):
        blocks = raw[first : first + step]
        start = first * block_elements
        with np.errstate(over="ignore", invalid="ignore"):
            values = _dequantise_blocks(file, tensor, blocks)
            out[start : start + values.size] = values
        if not np.isfinite(out[start : start + values.size]).all():
            raise file.error(f"tensor {tensor.name!r} has values that are no {dtype.__name__}")
    return out.reshape(tensor.shape)


def _dequantise_blocks(
    file: GgufFile, tensor: GgufTensor, blocks: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """`gguf` works on sixteen rows at a time: long rows keep it from crawling over short ones."""
    block_elements, _ = GGML_QUANT_SIZES[tensor.quantisation]
    per_row = max(1, _GROUP_ELEMENTS // 16 // block_elements)
    whole = len(blocks) // per_row * per_row
    try:
        parts = [
            dequantize(part.reshape(-1, width * blocks.shape[1]), tensor.quantisation).ravel()
            for part, width in ((blocks[:whole], per_row), (blocks[whole:], 1))
            if len(part)
        ]
    except NotImplementedError:
        raise file.error(
            f"tensor {tensor.name!r} is quantised as {tensor.quantisation.name}, "
            "which cannot be read"
        ) from None
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _halves(
    file: GgufFile, tensor: GgufTensor, values: NDArray[np.generic], heads: int
) -> NDArray[np.generic]:
    """Undo llama.cpp's row order (pairs side by side) within each head."""
    rows = values.shape[0]
    if rows % (2 * heads):
        raise file.error(f"tensor {tensor.name!r}: {rows} rows do not make {heads} heads")
    paired = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return paired.swapaxes(1, 2).reshape(values.shape)


def write_weights(
    metadata: Metadata,
    directory: Path,
    on_progress: OnProgress,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write model.safetensors, or numbered files and their index. Raises CheckpointError."""
    rules = {name: how for name in metadata.file.tensors if (how := rule(metadata, name))}
    groups = list(_grouped(metadata.file, list(rules), max_file_bytes))
    total = sum(metadata.file.tensors[name].nbytes for name in rules)
    done = 0
    index: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        several = f"model-{number:05}-of-{len(groups):05}.safetensors"
        file_name = several if len(groups) > 1 else "model.safetensors"
        converted = {}
        for name in group:
            tensor = metadata.file.tensors[name]
            converted[rules[name].name] = convert(metadata.file, tensor, rules[name])
            done += tensor.nbytes
            on_progress(Progress("convert", done, total, metadata.file.path.name))
        save_file(converted, directory / file_name, {"format": "pt"})
        index |= dict.fromkeys(converted, file_name)
    if len(groups) > 1:
        (directory / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index}, indent=2)
        )


def _grouped(file: GgufFile, names: list[str], max_bytes: int) -> Iterator[list[str]]:
    """Names in file order, cut so that the converted tensors of a group fit `max_bytes`."""
    group: list[str] = []
    size = 0
    for name in names:
        tensor = file.tensors[name]
        nbytes = tensor.elements * (4 if len(tensor.shape) == 1 else 2)
        if group and size + nbytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += nbytes
    if group:
        yield group
