"""The cluster's HTTP API as the commands see it, with its errors turned back into ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from paceline.process.home import Home
from paceline.types.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PacelineError,
    Unavailable,
)

CONNECT_S = 2.0
ANSWER_S = 30.0
STREAM_SILENCE_S = 120.0
"""Longest silence of a stream; the gateway sends comments far more often."""

_ERRORS: dict[int, type[PacelineError]] = {
    400: InvalidRequest,
    404: NotFound,
    429: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


class Api:
    """One cluster's gateway. Every call raises a PacelineError that says what went wrong."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.api_key = api_key
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def get(self, path: str, **params: Any) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        given = {key: value for key, value in body.items() if value is not None}
        return self._call("POST", path, json=given)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def events(self, path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Server-sent events: each `data:` line's JSON until [DONE] or the end."""
        method = "POST" if body is not None else "GET"
        timeout = httpx.Timeout(STREAM_SILENCE_S, connect=CONNECT_S)
        with (
            self._errors(),
            self._client.stream(method, path, json=body, timeout=timeout) as response,
        ):
            if response.status_code >= 400:
                response.read()
                _raise_for(response)
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    if "error" in event:
                        raise PacelineError(event["error"].get("message", "the stream failed"))
                    yield event

    def alive(self) -> bool:
        try:
            return self._client.get("/health", timeout=CONNECT_S).status_code == 200
        except httpx.HTTPError:
            return False

    def _call(self, method: str, path: str, **options: Any) -> Any:
        with self._errors():
            response = self._client.request(method, path, **options)
        _raise_for(response)
        return response.json()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"{self.url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url} cannot be reached: {error}") from error


def running_cluster(home: Home, url: str | None, api_key: str | None) -> Api | None:
    """The cluster named by `url`, else the one that runs in this home, if it answers."""
    if url is not None:
        return Api(url, api_key)
    info = home.read_run()
    if info is None:
        return None
    api = Api(info.url, api_key or info.api_key)
    return api if api.alive() else None


def _raise_for(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        message = str(response.json()["error"]["message"])
        code = response.json()["error"].get("code")
    except (ValueError, KeyError, TypeError):
        message, code = f"{response.status_code} {response.reason_phrase}", None
    error = _ERRORS.get(response.status_code, PacelineError)(message)
    if code:
        error.code = str(code)
    raise error
