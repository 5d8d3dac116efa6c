"""The fixed text: prompts for every system, and a look at what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

PROSE = Path(__file__).parent / "data" / "prose.txt"

LEAST_LETTERS = 0.7
"""Part of an English text's characters that are letters or spaces, at least."""
LEAST_WORDS = 6
"""Different words in any answer of two dozen tokens; noise and stuck samplers have fewer."""
MOST_INSANE = 0.25
"""Part of the answers that may look like none: a small model now and then counts years."""
JUDGED_TOKENS = 24
"""Shorter answers say nothing about sanity."""


class Text:
    """The prose as one model's tokens."""

    def __init__(self, checkpoint: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.ids: list[int] = self._tokenizer.encode(PROSE.read_text()).ids

    def prompts(self, count: int, tokens: int) -> list[list[int]]:
        """Different pieces of the text, spread over all of it; the text over and over where one is
        longer than all of it."""
        longer = self.ids * (1 + tokens // len(self.ids))
        room = max(1, len(longer) - tokens)
        starts = [i * room // count for i in range(count)]
        return [longer[start : start + tokens] for start in starts]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))

    def insane(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The answers, as text, that no model would give to this prose."""
        judged = [self.decode(ids) for ids in answers if len(ids) >= JUDGED_TOKENS]
        return [text for text in judged if not is_sane(text)]


def is_sane(text: str) -> bool:
    """Whether it looks like English prose: letters, and more than a few different words."""
    letters = sum(c.isascii() and (c.isalpha() or c.isspace()) for c in text)
    words = set(text.lower().split())
    return letters >= LEAST_LETTERS * len(text) and len(words) >= LEAST_WORDS
