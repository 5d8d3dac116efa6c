"""Text to token ids and back, from the tokenizer.json of a checkpoint.

Encoding is the `tokenizers` library's. Decoding goes through the bytes of each token, so that a
stream decoded token by token is the same text as all of its tokens decoded at once.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from paceline.checkpoint.jsonfile import read_json
from paceline.checkpoint.token_bytes import TokenBytes
from paceline.types.errors import CheckpointError, InvalidRequest

_EOS_FILES = ("config.json", "generation_config.json")


class Tokenizer:
    """The tokenizer of one checkpoint; it may be shared between threads."""

    def __init__(
        self,
        encoder: tokenizers.Tokenizer,
        token_bytes: TokenBytes,
        *,
        eos_ids: frozenset[int],
        bos_id: int | None,
    ) -> None:
        self._encoder = encoder
        self._token_bytes = token_bytes
        self.eos_ids = eos_ids
        """Any of them ends an answer."""
        self.bos_id = bos_id

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Raises CheckpointError, naming the file, when it is missing or not understood."""
        path = directory / "tokenizer.json"
        try:
            encoder = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        encoder.no_truncation()
        encoder.no_padding()
        bos = special_tokens(directory).get("bos_token")
        return cls(
            encoder,
            TokenBytes.of(encoder, path),
            eos_ids=read_eos_ids(directory),
            bos_id=None if bos is None else encoder.token_to_id(bos),
        )

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id; the model's own table may be padded beyond it."""
        return max(self._encoder.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Control tokens: they carry no text of an answer."""
        added = self._encoder.get_added_tokens_decoder()
        return frozenset(id_ for id_, token in added.items() if token.special)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Special tokens written out in the text are recognised.

        `add_special_tokens` puts bos (and eos) where the model wants them; a rendered chat
        template already holds them, so it is encoded without. Raises InvalidRequest for a text
        that is not Unicode (a lone surrogate).
        """
        try:
            ids: list[int] = self._encoder.encode(text, add_special_tokens=add_special_tokens).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest("the text holds half a character (a lone surrogate)") from error
        return ids

    def decode(
        self, ids: Iterable[int], skip_special_tokens: bool = True, continuing: bool = False
    ) -> str:
        """The text of `ids`; what is not UTF-8 becomes U+FFFD.

        `continuing`: the text goes on after other text, so that a first word keeps its space.
        """
        stream = self.detokenizer(skip_special_tokens, continuing)
        return "".join([*(stream.add(id_) for id_ in ids), stream.finish()])

    def detokenizer(self, skip_special_tokens: bool = True, continuing: bool = True) -> Detokenizer:
        """A stream of its own; by default for what a model writes after a prompt."""
        skipped = self.special_ids if skip_special_tokens else frozenset()
        return Detokenizer(self._token_bytes, skipped, continuing)

    def token_bytes(self, id_: int) -> bytes:
        """What a token adds to a text; nothing for an id that is none."""
        return self._token_bytes[id_]

    def token_text(self, id_: int) -> str:
        """A token on its own, as logprobs show it; parts of a character become U+FFFD."""
        return self._token_bytes[id_].decode(errors="replace")


class Detokenizer:
    """Text from token ids as they come, never with a broken character in it.

    Each step costs the bytes of its token. All pieces joined are `Tokenizer.decode` of all ids.
    """

    def __init__(self, token_bytes: TokenBytes, skipped: frozenset[int], continuing: bool) -> None:
        self._token_bytes = token_bytes
        self._skipped = skipped
        self._drop_space = token_bytes.leading_space and not continuing
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id_: int) -> str:
        """The text that has become certain; bytes of an unfinished character wait."""
        if id_ in self._skipped:
            return ""
        piece = self._token_bytes[id_]
        if self._drop_space and piece:
            self._drop_space = False
            piece = piece.removeprefix(b" ")
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """The rest: U+FFFD for bytes whose character was never finished."""
        return self._utf8.decode(b"", final=True)


def read_eos_ids(directory: Path) -> frozenset[int]:
    """Every id that ends an answer, by config.json, generation_config.json and the tokenizer.

    Raises CheckpointError when one of these files is broken.
    """
    ids: set[int] = set()
    for name in _EOS_FILES:
        path = directory / name
        if path.is_file():
            ids.update(_ids(read_json(path).get("eos_token_id"), path))
    eos = special_tokens(directory).get("eos_token")
    if eos is not None and (id_ := _added_ids(directory).get(eos)) is not None:
        ids.add(id_)
    return frozenset(ids)


def special_tokens(directory: Path) -> dict[str, str]:
    """Texts of bos_token, eos_token and their like, from tokenizer_config.json."""
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    tokens = {}
    for key, value in read_json(path).items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokens[key] = text
    return tokens


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _AddedTokens(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def _added_ids(directory: Path) -> dict[str, int]:
    """Ids of added tokens by text; read without building the tokenizer, for ranks need no more."""
    path = directory / "tokenizer.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_AddedTokens)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return {token.content: token.id for token in found.added_tokens}


def _ids(value: Any, path: Path) -> Sequence[int]:
    """One id, a list of ids or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise CheckpointError(
            f"{path}: eos_token_id is {value!r}, not a token id or a list of them"
        )
    return ids
