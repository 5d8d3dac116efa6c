"""Every kind of tokenizer for which llama.cpp's ids are recorded, as a small vocabulary."""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.checkpoint.gguf_tokenizer import PRE_TOKENISERS
from tests.checkpoint.tiny_gguf import Vocab, small_vocab


def _with(vocab: Vocab, pre: str | None = None, **settings: Any) -> Vocab:
    return msgspec.structs.replace(vocab, pre=pre, settings=vocab.settings | settings)


def kinds() -> dict[str, Vocab]:
    bpe, spm = small_vocab("bpe"), small_vocab("spm")
    return {
        **{f"bpe {pre}": _with(bpe, pre) for pre in PRE_TOKENISERS},
        "bpe without pre": bpe,
        "bpe with bos and eos": _with(bpe, "qwen2", add_bos_token=True, add_eos_token=True),
        "spm": spm,
        "spm without prefix": _with(spm, add_space_prefix=False, add_bos_token=False),
    }
