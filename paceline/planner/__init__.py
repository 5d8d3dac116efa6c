"""Pure placement: how many nodes, which, and which layers on each, with reasons."""

from paceline.planner.budget import NodeBudget, coarse
from paceline.planner.cluster_file import Described, parse_cluster
from paceline.planner.manual import place_manually
from paceline.planner.memory import MemoryModel
from paceline.planner.plan import plan, preview
from paceline.planner.sizes import human_bytes, parse_bytes
from paceline.planner.wish import kv_tokens, resolve_dtype

__all__ = [
    "Described",
    "MemoryModel",
    "NodeBudget",
    "coarse",
    "human_bytes",
    "kv_tokens",
    "parse_bytes",
    "parse_cluster",
    "place_manually",
    "plan",
    "preview",
    "resolve_dtype",
]
