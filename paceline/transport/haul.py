"""Which chunk is asked of whom, and what follows when a peer is late, lies or has it not.

Pure: it is told what happened and when. A chunk is asked of one peer, and of a second one only
when the first takes long and another has nothing else to do. Who lies is asked no more; who is
silent rests, and is given up after a few times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from paceline.checkpoint.partial import Chunks

WINDOW = 8
"""Chunks that are asked of one peer at once."""
REST_S = 2.0
GIVE_UP_AFTER = 3
"""Silences in a row."""
LOOK_AGAIN_S = 0.5
"""Before a peer that has nothing of what is still to be asked for is thought of again."""
SECOND_AFTER_S = 2.0
"""Without an answer, after which an idle peer is asked for the same chunk."""

Ref = tuple[int, int]
"""File and chunk, by number."""


class _Peer:
    def __init__(self, has: Chunks, now: float) -> None:
        self.has = has
        self.asked: dict[Ref, float] = {}
        """When; of what is not answered yet."""
        self.lacks: set[Ref] = set()
        self.heard_at = now
        self.rests_until = now
        self.silences = 0

    def may_have(self, ref: Ref) -> bool:
        file, chunk = ref
        ranges = self.has.get(file, ())
        return ref not in self.lacks and any(start <= chunk < stop for start, stop in ranges)

    def silent_since(self) -> float | None:
        """None while nothing is asked of it."""
        return max(self.heard_at, min(self.asked.values())) if self.asked else None


class Haul:
    """`patience_s`: silence of a peer that was asked, after which others are asked instead."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._wanted: set[Ref] = set()
        self._queue: deque[Ref] = deque()
        self._peers: dict[str, _Peer] = {}
        self.gone: dict[str, str] = {}
        """Who is asked no more, and why."""

    @property
    def done(self) -> bool:
        return not self._wanted

    @property
    def peers(self) -> tuple[str, ...]:
        """Who may be asked."""
        return tuple(self._peers)

    def want(self, refs: Iterable[Ref]) -> None:
        fresh = [ref for ref in refs if ref not in self._wanted]
        self._wanted.update(fresh)
        self._queue.extend(fresh)

    def enter(self, peer: str, has: Chunks, now: float) -> None:
        """It says that it has these; heard again, it may have more."""
        if peer in self._peers:
            self._peers[peer].has = has
        elif peer not in self.gone:
            self._peers[peer] = _Peer(has, now)

    def ask(self, now: float) -> list[tuple[str, Ref]]:
        """What to ask of whom now; it counts as asked."""
        found = []
        for name, peer in self._peers.items():
            while len(peer.asked) < WINDOW and peer.rests_until <= now:
                ref = self._next(peer, now)
                if ref is None:
                    break
                peer.asked[ref] = now
                found.append((name, ref))
        return found

    def wants(self, ref: Ref) -> bool:
        return ref in self._wanted

    def came(self, peer: str, ref: Ref, now: float) -> None:
        """A right chunk, wanted or not."""
        self._heard(peer, ref, now)
        self._wanted.discard(ref)

    def lacks(self, peer: str, ref: Ref, now: float) -> None:
        """The peer has it not, whatever it said before."""
        self._heard(peer, ref, now)
        if peer in self._peers:
            self._peers[peer].lacks.add(ref)
            self._again([ref])

    def strike(self, peer: str, why: str) -> None:
        """It is asked no more."""
        found = self._peers.pop(peer, None)
        self.gone[peer] = why
        if found is not None:
            self._again(found.asked)

    def tick(self, now: float) -> list[str]:
        """Who has been silent for too long, just now; what was asked of them is asked of others."""
        late = [name for name, peer in self._peers.items() if self._is_late(peer, now)]
        for name in late:
            peer = self._peers[name]
            peer.silences += 1
            peer.rests_until = now + REST_S
            unanswered, peer.asked = peer.asked, {}
            self._again(unanswered)
            if peer.silences >= GIVE_UP_AFTER:
                self.strike(name, f"it was silent for {self.patience_s:.0f} s, again and again")
        return late

    def unobtainable(self) -> list[Ref]:
        """Of what is wanted, all that no peer has that may still be asked; looked for only while
        no answer is awaited."""
        peers = self._peers.values()
        if any(peer.asked for peer in peers):
            return []
        return [ref for ref in self._wanted if not any(peer.may_have(ref) for peer in peers)]

    def _heard(self, name: str, ref: Ref, now: float) -> None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.asked.pop(ref, None)
            peer.heard_at, peer.silences = now, 0

    def _is_late(self, peer: _Peer, now: float) -> bool:
        since = peer.silent_since()
        return since is not None and now - since >= self.patience_s

    def _again(self, refs: Iterable[Ref]) -> None:
        """To be asked first, unless somebody else is being asked."""
        elsewhere = {ref for peer in self._peers.values() for ref in peer.asked}
        wanted = [ref for ref in refs if ref in self._wanted and ref not in elsewhere]
        self._queue.extendleft(reversed(wanted))

    def _next(self, peer: _Peer, now: float) -> Ref | None:
        passed: list[Ref] = []
        found: Ref | None = None
        while self._queue and found is None:
            ref = self._queue.popleft()
            if ref in self._wanted and peer.may_have(ref):
                found = ref
            elif ref in self._wanted:
                passed.append(ref)
        self._queue.extendleft(reversed(passed))
        if passed and found is None:
            peer.rests_until = now + LOOK_AGAIN_S
        return found or (None if peer.asked else self._second(peer, now))

    def _second(self, peer: _Peer, now: float) -> Ref | None:
        """What another peer was asked for long ago, and nobody besides."""
        asked = [entry for other in self._peers.values() for entry in other.asked.items()]
        once = {ref for ref, _ in asked if sum(ref == also for also, _ in asked) == 1}
        slow = [
            (since, ref)
            for ref, since in asked
            if ref in once and now - since >= SECOND_AFTER_S and peer.may_have(ref)
        ]
        return min(slow)[1] if slow else None
