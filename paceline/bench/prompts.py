"""Prompts that differ from their first words on, so that no server can reuse one for another."""

from __future__ import annotations

_WHO = ("A baker", "A sailor", "The old gardener", "My neighbour", "A young teacher", "The pilot")
_WHERE = ("in a small harbour", "by the river", "at the edge of town", "in the mountains")
_WHAT = ("repairs clocks", "keeps bees", "writes letters", "builds kites", "collects maps")


def prompts(count: int, words: int, first: int = 0) -> list[str]:
    """`count` different ones of at least `words` words each; another `first`, by `count` or more
    away, gives others."""
    return [_prompt(number, words) for number in range(first, first + count)]


def _prompt(number: int, words: int) -> str:
    text = f"Story {number + 1}."
    step = number
    while len(text.split()) < words:
        who, where, what = (part[step % len(part)] for part in (_WHO, _WHERE, _WHAT))
        text += f" {who} {where} {what}."
        step += 1
    return f"{text} One day"
