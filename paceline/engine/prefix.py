"""What a full KV page holds, as a key: equal keys mean equal keys and values inside.

A page's contents follow from the ids in it, those before it, the model and its rope. The last two
are the same for all that a loaded line ever computes, so a key is a hash of ids alone, chained from
page to page; it means nothing where another model or rope is loaded.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from paceline.types.model import PAGE_TOKENS

PageKey = bytes

KEY_BYTES = 32
"""Clients choose the ids. Nobody can make two prompts of one key, and so read another's answer."""


class KeyChain:
    """The keys of a growing list of ids, each made once."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._keys: list[PageKey] = []

    def first(self, count: int) -> list[PageKey]:
        """Keys of the first `count` pages, all of which the ids must fill."""
        while len(self._keys) < count:
            start = len(self._keys) * PAGE_TOKENS
            ids = array("I", self._ids[start : start + PAGE_TOKENS]).tobytes()
            before = self._keys[-1] if self._keys else b""
            self._keys.append(blake2b(before + ids, digest_size=KEY_BYTES).digest())
        return self._keys[:count]
