"""What a wish comes to: its dtype and its KV, or why no cluster could ever meet it."""

from __future__ import annotations

from paceline.planner.memory import AUTO_DTYPE, DTYPES, STEP_ROWS, MemoryModel, pages_for
from paceline.types.errors import InvalidRequest
from paceline.types.instance import DEFAULT_CONTEXT, DEFAULT_SEQUENCES, InstanceWish
from paceline.types.model import ModelFacts

TOKENS_PER_SEQUENCE = 512
"""KV that a sequence takes on average, for the default size of an instance."""


def resolve_dtype(dtype: str) -> str:
    resolved = AUTO_DTYPE if dtype == "auto" else dtype
    if resolved not in DTYPES:
        known = ", ".join(["auto", *sorted(DTYPES)])
        raise InvalidRequest(f"dtype {dtype!r} is not supported; use one of: {known}")
    return resolved


def kv_tokens(model: ModelFacts, wish: InstanceWish) -> int:
    """Tokens of KV that all sequences of the instance share."""
    if wish.kv_tokens is not None:
        return wish.kv_tokens
    one_context = min(model.max_context, DEFAULT_CONTEXT)
    return max(one_context, DEFAULT_SEQUENCES * min(TOKENS_PER_SEQUENCE, one_context))


def kv_pages(model: ModelFacts, wish: InstanceWish) -> int:
    return pages_for(kv_tokens(model, wish))


def memory_model(model: ModelFacts, wish: InstanceWish) -> MemoryModel:
    """Raises InvalidRequest for a wish that no cluster could ever meet for this model."""
    memory = MemoryModel(model, resolve_dtype(wish.dtype))
    if model.depth_divisor % memory.dtype.depth_multiple:
        raise InvalidRequest(
            f"{memory.dtype_name} needs matrices whose depths are multiples of "
            f"{memory.dtype.depth_multiple}, and {wish.model} has others; use {AUTO_DTYPE}"
        )
    if wish.min_nodes < 1:
        raise InvalidRequest(f"min_nodes must be at least 1, not {wish.min_nodes}")
    if wish.max_nodes is not None and wish.max_nodes < wish.min_nodes:
        raise InvalidRequest(
            f"max_nodes ({wish.max_nodes}) must not be less than min_nodes ({wish.min_nodes})"
        )
    if wish.min_nodes > memory.layers:
        raise InvalidRequest(
            f"min_nodes is {wish.min_nodes}, but {wish.model} has only {memory.layers} layers"
        )
    if wish.kv_tokens is not None and wish.kv_tokens < STEP_ROWS:
        raise InvalidRequest(f"kv_tokens must be at least {STEP_ROWS}, not {wish.kv_tokens}")
    return memory
