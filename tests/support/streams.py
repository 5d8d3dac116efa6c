"""Streams that live while something happens to the cluster under them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from paceline.cli.api import Api
from tests.support.cluster import MODEL, WAIT_S, LocalCluster


def body(number: int = 1, tokens: int = 100, model: str = MODEL) -> dict[str, Any]:
    """A request whose tokens are all its own: sampled by a seed, and of a known count."""
    return {
        "model": model,
        "prompt": f"A short story about the number {number}:",
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": number,
        "ignore_eos": True,
        "return_token_ids": True,
    }


class Stream:
    """Reads an answer on a thread of its own. `ids` are the token ids so far."""

    def __init__(self, cluster: LocalCluster, request: dict[str, Any]) -> None:
        self.ids: list[int] = []
        self.error: BaseException | None = None
        self._cluster = cluster
        self._request = request | {"stream": True}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in Api(self._cluster.api.url, self._cluster.api.api_key).events(
                "/v1/completions", self._request
            ):
                for choice in event["choices"]:
                    self.ids += choice.get("token_ids") or []
        except BaseException as error:
            self.error = error

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def until(self, count: int) -> None:
        """Waits for the first `count` tokens."""
        self._cluster.wait(f"{count} tokens", lambda: len(self.ids) >= count or not self.goes_on)
        assert len(self.ids) >= count, self.error

    def rest(self) -> list[int]:
        """All its tokens, once it has ended. Raises what ended it, if that was an error."""
        self._thread.join(WAIT_S)
        assert not self.goes_on, f"still without an end after {len(self.ids)} tokens"
        if self.error is not None:
            raise self.error
        return self.ids


def calm(cluster: LocalCluster, request: dict[str, Any]) -> list[int]:
    """The tokens of the request when nothing happens."""
    return Stream(cluster, request).rest()


def without_a_break(
    cluster: LocalCluster, request: dict[str, Any], until: Callable[[], bool]
) -> list[list[int]]:
    """The tokens of one stream after the other: one runs at every moment until `until()`, which is
    asked while they run, and the last began after it."""
    answers: list[list[int]] = []
    deadline = time.monotonic() + WAIT_S
    reached = False
    while not reached:
        assert time.monotonic() < deadline, f"nothing happened in {len(answers)} streams"
        reached = until()
        answers.append(calm(cluster, request))
    return answers
