"""Sixteen clients at once, of every kind; each knows all that it was answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from paceline.cli.api import Api
from paceline.types.errors import PacelineError
from tests.support.cluster import MODEL

VOICES = 16
END_S = 300.0


class Answer(msgspec.Struct, kw_only=True):
    """All that a client gets of one choice, and that must be the same whatever happens."""

    text: str = ""
    ids: list[int] = []
    logprobs: list[float] = []
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    numerics: set[str] = msgspec.field(default_factory=set)


def requests(tokens: int = 60, model: str = MODEL) -> list[dict[str, Any]]:
    """Greedy and seeded, streamed and whole, chats and completions, with logprobs and with stop
    strings; no two alike."""
    return [_request(number, tokens, model) for number in range(VOICES)]


def _request(number: int, tokens: int, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": tokens,
        "return_token_ids": True,
        "temperature": 0 if number % 2 else 0.9,
        "seed": number,
        "ignore_eos": True,
    }
    if number % 4 == 3:
        body |= {"messages": [{"role": "user", "content": f"Tell me of the number {number}."}]}
        body |= {"logprobs": True, "top_logprobs": 2}
    else:
        body |= {"prompt": f"Größe {number} 🌍: a story about the number {number}. ", "logprobs": 1}
    if number % 5 == 4:
        body |= {"stop": ["\n\nThe ", " of the", "?"]}
    if number % 8 != 2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class Voice:
    """One client on a thread of its own."""

    def __init__(self, api: Api, request: dict[str, Any]) -> None:
        """`api` tells where and with which key; the connection is its own."""
        self.answer = Answer()
        self.error: BaseException | None = None
        self.heard_at: list[float] = [time.monotonic()]
        """Of the request, and of every event since."""
        self._url, self._key = api.url, api.api_key
        self._request = request
        self._thread = threading.Thread(target=self._sing, daemon=True)
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def end(self, timeout_s: float = END_S) -> Answer:
        self._thread.join(timeout_s)
        assert not self.goes_on, f"no end after {len(self.answer.ids)} tokens"
        if self.error is not None:
            raise self.error
        return self.answer

    def _sing(self) -> None:
        path = "/v1/chat/completions" if "messages" in self._request else "/v1/completions"
        try:
            if self._request.get("stream"):
                for event in Api(self._url, self._key).events(path, self._request):
                    self._take(event)
            else:
                self._take(self._whole(path))
        except BaseException as error:
            self.error = error

    def _whole(self, path: str) -> dict[str, Any]:
        """A whole answer takes as long as it takes."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        response = httpx.post(
            f"{self._url}{path}", json=self._request, headers=headers, timeout=END_S
        )
        if response.status_code != 200:
            raise PacelineError(response.text)
        return dict(response.json())

    def _take(self, event: dict[str, Any]) -> None:
        self.heard_at.append(time.monotonic())
        answer = self.answer
        answer.usage = event.get("usage") or answer.usage
        answer.numerics.add(event["system_fingerprint"])
        for choice in event["choices"]:
            said = choice.get("delta") or choice.get("message") or choice
            answer.text += said.get("content") or said.get("text") or ""
            answer.ids = answer.ids + (choice.get("token_ids") or [])
            answer.logprobs = answer.logprobs + _logprobs(choice.get("logprobs"))
            answer.finish_reason = choice["finish_reason"] or answer.finish_reason


def _logprobs(said: dict[str, Any] | None) -> list[float]:
    if said is None:
        return []
    if "content" in said:
        return [entry["logprob"] for entry in said["content"]]
    return list(said["token_logprobs"])


class Choir:
    """The same requests, asked together; `calm` is what they are answered when nothing happens."""

    def __init__(self, api: Api, requests: Sequence[dict[str, Any]]) -> None:
        self._api = api
        self._requests = requests
        self.calm = [voice.end() for voice in self.begin()]

    def begin(self, through: Api | None = None) -> list[Voice]:
        """`through` another gateway than usual."""
        return [Voice(through or self._api, request) for request in self._requests]

    def verify(self, voices: Sequence[Voice], about: object) -> None:
        """No error, nothing lost, nothing repeated, nothing else."""
        for number, (voice, expected) in enumerate(zip(voices, self.calm, strict=True)):
            answer = voice.end()
            for name in Answer.__struct_fields__:
                got, wanted = getattr(answer, name), getattr(expected, name)
                assert got == wanted, (about, number, name, got, wanted)
