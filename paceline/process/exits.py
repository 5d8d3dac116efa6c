"""How a process ended, as a sentence."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import msgspec

from paceline.process.child import PARENT_GONE

_MAX_REASON = 400
_OURS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGKILL})


class ChildExit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a child. Negative `code` is a signal, as in `subprocess`."""

    pid: int
    code: int
    sentence: str
    log_tail: tuple[str, ...]
    lived_s: float

    @classmethod
    def of_none(cls, code: int, reason: str) -> ChildExit:
        """The end of a child that never was."""
        return cls(pid=0, code=code, sentence=reason, log_tail=(), lived_s=0.0)


def exit_sentence(
    code: int, tail: Sequence[str] = (), *, asked: str = "", oom_killed: bool | None = None
) -> str:
    """Why a process is gone. `asked`: why we asked it to end, if we did. `oom_killed`: whether the
    kernel's out-of-memory killer was at work while it lived; None if that cannot be known."""
    if code < 0:
        return _by_signal(-code, asked, oom_killed)
    if code == 0:
        return f"ended with exit code 0, as asked: {asked}" if asked else "ended with exit code 0"
    if code == PARENT_GONE:
        return "ended because its parent was gone"
    said = next((line.strip() for line in reversed(tail) if line.strip()), "")
    why = said[:_MAX_REASON] or "it said nothing"
    return f"ended with exit code {code}: {why}"


def _by_signal(number: int, asked: str, oom_killed: bool | None) -> str:
    name, meaning = _signal_words(number)
    if asked and number in _OURS:
        return f"ended by {name}, as asked: {asked}"
    if number != signal.SIGKILL:
        return f"ended by {name} ({meaning}), which nobody here sent"
    if oom_killed:
        return (
            "killed by SIGKILL while the kernel's out-of-memory killer was at work: give the node "
            "less to hold or the machine more memory"
        )
    if oom_killed is None:
        return (
            "killed by SIGKILL, which nobody here sent; the kernel's out-of-memory killer does that"
        )
    return "killed by SIGKILL, which nobody here sent, nor did the kernel run out of memory"


def _signal_words(number: int) -> tuple[str, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return name, (signal.strsignal(number) or "no known meaning").lower()
