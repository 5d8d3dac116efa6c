"""What each token adds to a text, in bytes: for byte-level and for SentencePiece vocabularies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers

from paceline.types.errors import CheckpointError

_SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Bytes by token id, worked out when first asked for."""

    def __init__(
        self,
        encoder: tokenizers.Tokenizer,
        to_bytes: Callable[[str], bytes],
        leading_space: bool,
    ) -> None:
        self._encoder = encoder
        self._to_bytes = to_bytes
        self.leading_space = leading_space
        """A text begins with a space that was not in it."""
        self._known: dict[int, bytes] = {}

    @classmethod
    def of(cls, encoder: tokenizers.Tokenizer, path: Path) -> TokenBytes:
        """Raises CheckpointError for a decoder that is of neither kind."""
        steps = {step["type"]: step for step in _steps(json.loads(encoder.to_str())["decoder"])}
        if "ByteLevel" in steps:
            return cls(encoder, byte_level_bytes, leading_space=False)
        if "Metaspace" in steps:
            prefixed = steps["Metaspace"].get("prepend_scheme", "always") != "never"
            return cls(encoder, sentencepiece_bytes, leading_space=prefixed)
        if "ByteFallback" in steps:
            stripped = steps.get("Strip", {"start": 0})["start"] > 0
            return cls(encoder, sentencepiece_bytes, leading_space=stripped)
        raise CheckpointError(
            f"{path}: decoder {'+'.join(steps) or 'none'} is not supported; "
            "ByteLevel, Metaspace and ByteFallback are"
        )

    def __getitem__(self, id_: int) -> bytes:
        known = self._known.get(id_)
        if known is None:
            token = self._encoder.id_to_token(id_) if id_ >= 0 else None
            known = self._known[id_] = b"" if token is None else self._to_bytes(token)
        return known


def byte_level_bytes(token: str) -> bytes:
    """GPT-2's alphabet: one printable character per byte. Other tokens stand for themselves."""
    try:
        return bytes(_BYTE_OF[char] for char in token)
    except KeyError:
        return token.encode()


def sentencepiece_bytes(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace(_SPACE, " ").encode()


def _byte_of_char() -> dict[str, int]:
    """Printable Latin-1 stands for itself; the other bytes take, in order, U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(others)
    }


_BYTE_OF = _byte_of_char()


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder
