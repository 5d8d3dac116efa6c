"""A `tokenizers` tokenizer from the vocabulary inside a GGUF file.

The measure of right is llama.cpp: the same text gives the same ids. So a pre-tokeniser is the
list of patterns that llama.cpp applies for a `tokenizer.ggml.pre`, one after another, and no
Unicode normalisation is done where llama.cpp does none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from paceline.checkpoint.gguf_config import Metadata

_SPACE = "▁"
_MAX_TOKEN_CHARS = 4096


class TokenType(IntEnum):
    """tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ADDED_TYPES = frozenset({TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED})
"""Found in the text as they stand, before anything else is done with it."""

_SILENT_TYPES = frozenset({TokenType.UNKNOWN, TokenType.CONTROL})
"""No part of an answer's text."""

END_TEXTS = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>", "<end_of_utterance>",
    "<eos>", "</s>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>",
})  # fmt: skip
"""Tokens that end an answer even where the metadata do not say so, if they are control tokens.

llama.cpp finds them in the text as they stand whatever their type is, and so do we.
"""


class PreTokeniser(msgspec.Struct, frozen=True, kw_only=True):
    """How llama.cpp cuts text for one name of `tokenizer.ggml.pre`."""

    patterns: tuple[str, ...]
    """Each cuts the pieces that the one before it left; what a pattern skips is a piece too."""
    whole_words: bool = False
    """A piece that is a token is taken as it is, without merges."""
    add_bos: bool = False
    """If the metadata do not say."""


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN_UPPER, _TEKKEN_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"

_gpt2 = PreTokeniser(patterns=(_GPT2,))
_smollm = PreTokeniser(patterns=(r"\p{N}", _GPT2))
_default = PreTokeniser(
    patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
)
_llama3 = PreTokeniser(
    patterns=(_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL,),
    whole_words=True,
    add_bos=True,
)
_qwen2 = PreTokeniser(patterns=(_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,))
_tekken = PreTokeniser(
    patterns=(
        rf"[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}*{_TEKKEN_LOWER}+"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}+{_TEKKEN_LOWER}*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    whole_words=True,
    add_bos=True,
)

PRE_TOKENISERS = {
    "default": _default,
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "llama-bpe": _llama3,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "tekken": _tekken,
}


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[str]
    types: list[TokenType]
    tokenizer: Tokenizer
    add_bos: bool
    add_eos: bool


def vocabulary(metadata: Metadata) -> Vocabulary:
    """Build the tokenizer. Raises CheckpointError for kinds that are not supported."""
    kind = metadata.get("tokenizer.ggml.model", str)
    if kind not in _BUILDERS:
        raise metadata.file.error(
            f"tokenizer model {kind!r} is not supported; {', '.join(_BUILDERS)} are"
        )
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    if (longest := max(map(len, tokens))) > _MAX_TOKEN_CHARS:
        raise metadata.file.error(f"corrupt: a token of {longest} characters")
    types = _types(metadata, len(tokens))
    tokenizer, add_bos = _BUILDERS[kind](metadata, tokens, types)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=type_ in _SILENT_TYPES, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ in _ADDED_TYPES or token in END_TEXTS
        ]
    )
    stated = metadata.find("tokenizer.ggml.add_bos_token", bool)
    found = Vocabulary(
        tokens=tokens,
        types=types,
        tokenizer=tokenizer,
        add_bos=add_bos if stated is None else stated,
        add_eos=metadata.find("tokenizer.ggml.add_eos_token", bool) or False,
    )
    _frame(metadata, found)
    return found


def _byte_level_bpe(
    metadata: Metadata, tokens: list[str], types: list[TokenType]
) -> tuple[Tokenizer, bool]:
    name = metadata.find("tokenizer.ggml.pre", str) or "default"
    pre = PRE_TOKENISERS.get(name)
    if pre is None:
        raise metadata.file.error(
            f"pre-tokeniser {name!r} is not known; {', '.join(PRE_TOKENISERS)} are"
        )
    merges = [_pair(metadata, merge) for merge in _strings(metadata, "tokenizer.ggml.merges")]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    tokenizer = _bpe(metadata, vocab, merges, ignore_merges=pre.whole_words)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre.add_bos


def _sentencepiece_bpe(
    metadata: Metadata, tokens: list[str], types: list[TokenType]
) -> tuple[Tokenizer, bool]:
    scores = metadata.get("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens):
        raise metadata.file.error(f"{len(scores)} token scores for {len(tokens)} tokens")
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    unknown = metadata.find("tokenizer.ggml.unknown_token_id", int)
    tokenizer = _bpe(
        metadata,
        vocab,
        _merges_by_score(tokens, types, scores),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else _token(metadata, tokens, unknown),
    )
    prefix = metadata.find("tokenizer.ggml.add_space_prefix", bool)
    prefix = True if prefix is None else prefix
    steps = [normalizers.Replace(" ", _SPACE)]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), *steps] if prefix else steps
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix else [])
    )
    return tokenizer, True


_BUILDERS = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}


def _bpe(
    metadata: Metadata, vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any
) -> Tokenizer:
    try:
        return Tokenizer(BPE(vocab, merges, **options))
    except Exception as error:
        raise metadata.file.error(f"the vocabulary is inconsistent: {error}") from error


def _merges_by_score(
    tokens: list[str], types: list[TokenType], scores: list[float]
) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best piece first, as SentencePiece would merge."""
    mergeable = {
        token: id_
        for id_, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (TokenType.NORMAL, TokenType.UNUSED)
    }
    ranked = sorted(mergeable.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [
        (token[:cut], token[cut:])
        for token, _ in ranked
        for cut in range(1, len(token))
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]


def _frame(metadata: Metadata, found: Vocabulary) -> None:
    """Put bos and eos around what is encoded, where the file says so."""
    bos, eos = (
        _marker(metadata, found.tokens, f"tokenizer.ggml.{key}") if wanted else None
        for key, wanted in (("bos_token_id", found.add_bos), ("eos_token_id", found.add_eos))
    )
    if bos is None and eos is None:
        return
    before = [bos[0]] if bos else []
    after = [eos[0]] if eos else []
    found.tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B", *after],
        special_tokens=[marker for marker in (bos, eos) if marker],
    )


def _marker(metadata: Metadata, tokens: list[str], key: str) -> tuple[str, int] | None:
    id_ = metadata.find(key, int)
    return None if id_ is None else (_token(metadata, tokens, id_), id_)


def _token(metadata: Metadata, tokens: list[str], id_: int) -> str:
    if not 0 <= id_ < len(tokens):
        raise metadata.file.error(f"token id {id_} is not in the vocabulary of {len(tokens)}")
    return tokens[id_]


def _strings(metadata: Metadata, key: str) -> list[str]:
    values = metadata.get(key, list)
    if not values or not isinstance(values[0], str):
        raise metadata.file.error(f"metadata {key} is not a list of strings")
    return values


def _types(metadata: Metadata, count: int) -> list[TokenType]:
    codes = metadata.find("tokenizer.ggml.token_type", list)
    if codes is None:
        return [TokenType.NORMAL] * count
    try:
        types = [TokenType(code) for code in codes]
    except ValueError as error:
        raise metadata.file.error(f"metadata tokenizer.ggml.token_type: {error}") from None
    if len(types) != count:
        raise metadata.file.error(f"{len(types)} token types for {count} tokens")
    return types


def _pair(metadata: Metadata, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise metadata.file.error(f"merge {merge!r} is not a pair of tokens")
    return left, right
