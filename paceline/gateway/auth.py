"""The API key, where one is wanted."""

from __future__ import annotations

import hmac

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.gateway.errors import InvalidApiKey, error_json, shape_of

OPEN_PATHS = frozenset({"/health"})


class ApiKeyGuard:
    """Lets requests through that bear the key; keys are compared in constant time."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = b"Bearer " + api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = InvalidApiKey("give this server's API key as `Authorization: Bearer KEY`")
        status, headers = shape_of(error).status, {"www-authenticate": "Bearer"}
        refusal = Response(error_json(error), status, headers, "application/json")
        await refusal(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)
