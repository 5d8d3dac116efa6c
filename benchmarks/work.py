"""What every system is given, and what it gives back. Standard library only: peers' environments
import this."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """All prompts at once, as token ids; `new` tokens for each, greedily, whatever they are."""

    prompts: list[list[int]]
    new: int

    @property
    def streams(self) -> int:
        return len(self.prompts)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


@dataclass(frozen=True)
class Outcome:
    """Only generated tokens count."""

    prefill_s: float
    """Until every stream had its first token."""
    decode_s: float
    """From then to the last token."""
    decoded: int
    """Tokens generated in `decode_s`."""
    answers: list[list[int]]
    """All generated ids of each stream, the first included."""
    gaps_s: list[float] = field(default_factory=list)
    """Between one step's tokens and the next's, in `decode_s`."""
