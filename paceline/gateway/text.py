"""Stop strings in a text that arrives in pieces.

Pure: the result never depends on how the text was cut into pieces.
"""

from __future__ import annotations


class StopText:
    """Lets a growing text through up to the first stop string.

    First means: the one that is complete first; of several complete at the same character, the
    longest. What may still become a stop string is held back.
    """

    def __init__(self, stops: tuple[str, ...], include: bool = False) -> None:
        self._matchers = tuple(_Matcher(stop) for stop in stops)
        self._include = include
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was found."""

    def feed(self, text: str) -> str:
        """Take in the next piece; returns what may be shown now."""
        if self.stopped is not None:
            return ""
        if not self._matchers:
            return text
        start = len(self._held)
        self._held += text
        for end, char in enumerate(text, start + 1):
            complete = [matcher.stop for matcher in self._matchers if matcher.completes(char)]
            if complete:
                return self._cut(max(complete, key=len), end)
        keep = max(matcher.matched for matcher in self._matchers)
        return self._release(len(self._held) - keep)

    def pass_by(self, text: str) -> str:
        """Take in a piece in which no stop string is looked for, nor may begin or end."""
        for matcher in self._matchers:
            matcher.matched = 0
        return self.flush() + text

    def flush(self) -> str:
        """The text has ended: what was held back was no stop string after all."""
        return self._release(len(self._held))

    def _cut(self, stop: str, end: int) -> str:
        self.stopped = stop
        shown = self._held[: end if self._include else end - len(stop)]
        self._held = ""
        return shown

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown


class _Matcher:
    """Knuth-Morris-Pratt, one character at a time.

    `matched` is the length of the longest prefix of `stop` that the text so far ends with.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _fallbacks(stop)

    def completes(self, char: str) -> bool:
        matched = self.matched
        while matched and char != self.stop[matched]:
            matched = self._fallback[matched]
        self.matched = matched + (char == self.stop[matched])
        return self.matched == len(self.stop)


def _fallbacks(stop: str) -> list[int]:
    """For each length of a matched prefix: the longest shorter prefix that it also ends with."""
    fallback = [0, 0]
    for char in stop[1:]:
        length = fallback[-1]
        while length and char != stop[length]:
            length = fallback[length]
        fallback.append(length + (char == stop[length]))
    return fallback
