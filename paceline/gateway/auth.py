"""The API key, where one is wanted."""

from __future__ import annotations

import hashlib
import hmac

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.gateway.errors import InvalidApiKey, error_json, shape_of
from paceline.gateway.metrics import Metrics
from paceline.process.logs import get_logger
from paceline.transport.sparing import Sparing

OPEN_PATHS = frozenset({"/health"})

log = get_logger(__name__)


class ApiKeyGuard:
    """Lets requests through that bear the key. What is compared, in constant time, are digests:
    not even the key's length shows. Who is refused is counted, named in the log, and hung up on,
    so that no stranger's body is read."""

    def __init__(self, app: ASGIApp, api_key: str, metrics: Metrics) -> None:
        self._app = app
        self._expected = _digest(b"Bearer " + api_key.encode())
        self._metrics = metrics
        self._sparing = Sparing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = InvalidApiKey("give this server's API key as `Authorization: Bearer KEY`")
        self._note(scope, error.code)
        headers = {"www-authenticate": "Bearer", "connection": "close"}
        refusal = Response(error_json(error), shape_of(error).status, headers, "application/json")
        await refusal(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(_digest(given), self._expected)

    def _note(self, scope: Scope, code: str) -> None:
        self._metrics.rejected.labels(code).inc()
        host = scope["client"][0] if scope["client"] else ""
        if self._sparing.may_say(host):
            log.warning("a request without the API key was refused", client=host)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
