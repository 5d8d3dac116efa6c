"""Rank 0's streams, and which token each of them must get at which position."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from paceline.types.facts import StreamLoad
from paceline.types.ids import StreamId
from paceline.types.stream import (
    Cancel,
    Closing,
    Finished,
    FinishReason,
    FromDriver,
    Rejected,
    StreamRecord,
    Submit,
    Token,
    Tokens,
)
from tests.simulation.network import Network

if TYPE_CHECKING:
    from tests.simulation.line import SimRank

VOCABULARY = 1000


def token_at(stream: StreamId, position: int) -> int:
    """The one token that is right there, whoever draws it."""
    return 1 + zlib.crc32(f"{stream}/{position}".encode()) % VOCABULARY


class SimDriver:
    """Keeps to what `paceline.runner.driver` does with messages of gateways."""

    def __init__(self, rank: SimRank, network: Network) -> None:
        self.admitted: tuple[str, ...] = ()
        """Keys of the gateways that may speak."""
        self.refusing = "the line is not ready yet"
        self.warming = False
        self.held: dict[StreamId, tuple[str, StreamRecord, int]] = {}
        """Stream to (gateway, record, next position)."""
        self._rank = rank
        self._network = network
        self._name = f"front:{rank.door}"
        self._emitted = 0
        self._end = network.join(self._name, rank.runner.host, self._take)

    @property
    def is_busy(self) -> bool:
        return self.warming or bool(self.held)

    @property
    def load(self) -> StreamLoad:
        return StreamLoad(
            running=len(self.held),
            waiting=0,
            pages_free=9,
            pages_total=9,
            tokens_emitted=self._emitted,
        )

    def emit(self) -> None:
        """A step went round: every stream has its next token."""
        self.warming = False
        for stream, (gateway, record, position) in tuple(self.held.items()):
            token = Token(stream, record.attempt, position, token_at(stream, position))
            self._emitted += 1
            position += 1
            self.held[stream] = (gateway, record, position)
            finished: tuple[Finished, ...] = ()
            if position >= record.params.max_tokens:
                del self.held[stream]
                finished = (_finished(record, position),)
            self._send(gateway, Tokens((token,), finished))

    def close(self, reason: str) -> None:
        for gateway in {gateway: None for gateway, _, _ in self.held.values()}:
            self._send(gateway, Closing(reason))
        self.held.clear()
        self.refusing = reason
        self._network.leave(self._name, self._end)

    def _take(self, sender: str, message: Any) -> None:
        if not self._rank.runner.pumps or sender not in self.admitted:
            return
        if isinstance(message, Submit):
            self._submit(sender, message.record)
            self._rank.runner.look_soon()
        elif isinstance(message, Cancel):
            held = self.held.get(message.stream_id)
            if held is not None and held[1].attempt <= message.attempt:
                del self.held[message.stream_id]

    def _submit(self, gateway: str, record: StreamRecord) -> None:
        stream, held = record.stream_id, self.held.get(record.stream_id)
        if held is not None and held[1].attempt >= record.attempt:
            return
        if self.refusing:
            refusal = Rejected(stream, record.attempt, "unavailable", self.refusing, True)
            self._send(gateway, refusal)
        elif len(record.emitted_ids) >= record.params.max_tokens:
            self._send(gateway, Tokens((), (_finished(record, len(record.emitted_ids)),)))
        else:
            self.held[stream] = (gateway, record, len(record.emitted_ids))

    def _send(self, gateway: str, message: FromDriver) -> None:
        self._network.send(self._rank.runner.host.name, self._name, gateway, message)


def _finished(record: StreamRecord, emitted: int) -> Finished:
    return Finished(
        stream_id=record.stream_id,
        attempt=record.attempt,
        emitted=emitted,
        reason=FinishReason.LENGTH,
    )
