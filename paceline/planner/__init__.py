"""Pure placement: how many nodes, which, and which layers on each, with reasons."""

from paceline.planner.memory import MemoryModel, human_bytes
from paceline.planner.plan import NodeBudget, kv_tokens, plan, resolve_dtype

__all__ = ["MemoryModel", "NodeBudget", "human_bytes", "kv_tokens", "plan", "resolve_dtype"]
