"""Whether the gateway lives, whether anything can be asked of it, and its numbers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from paceline.gateway.drivers import Drivers
from paceline.gateway.metrics import Metrics


class Health:
    def __init__(self, drivers: Drivers, metrics: Metrics) -> None:
        self._drivers = drivers
        self._metrics = metrics

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/health", self.health)
        router.add_api_route("/ready", self.ready)
        router.add_api_route("/metrics", self.metrics)
        return router

    async def health(self) -> dict[str, Any]:
        return {"status": "ok"}

    async def ready(self) -> JSONResponse:
        """200 if any model can be asked, else 503 and why not."""
        table = self._drivers.table
        if table.routes:
            models = sorted({route.model for route in table.routes.values()})
            return JSONResponse({"ready": True, "models": models})
        reasons = list(table.reasons())
        return JSONResponse(
            {"ready": False, "reasons": reasons}, status_code=503, headers={"retry-after": "2"}
        )

    async def metrics(self) -> Response:
        return Response(self._metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})
