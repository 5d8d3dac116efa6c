"""OpenAI's routes: chat completions, completions, models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from paceline.gateway.account import Account
from paceline.gateway.alarm import Alarm
from paceline.gateway.body import read_body, while_connected
from paceline.gateway.drivers import Drivers
from paceline.gateway.errors import InvalidField, ModelNotFound, as_known, error_body
from paceline.gateway.generation import Generation, Work
from paceline.gateway.library import Library, ModelText
from paceline.gateway.metrics import Metrics
from paceline.gateway.prompts import prompts_of
from paceline.gateway.replies import KEEP_ALIVE, ChatReply, CompletionReply, Reply, sse
from paceline.gateway.requests import AnyRequest, ChatRequest, CompletionRequest, decode
from paceline.gateway.sampling import choices, sampling_params, stop_strings, timeout_s
from paceline.gateway.settings import Settings
from paceline.gateway.sse import EventStream
from paceline.gateway.streams import Delta
from paceline.gateway.waiting import WaitingRoom
from paceline.types.errors import DeadlineExceeded
from paceline.types.ids import fresh_id
from paceline.types.limits import MAX_CHOICES
from paceline.types.model import PAGE_TOKENS

Gained = list[tuple[int, Delta]]


class OpenAi:
    def __init__(
        self,
        drivers: Drivers,
        library: Library,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drivers = drivers
        self._library = library
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._waiting = WaitingRoom(drivers, settings, metrics, clock)
        self._since = int(time.time())

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1")
        router.add_api_route("/chat/completions", self.chat, methods=["POST"])
        router.add_api_route("/completions", self.complete, methods=["POST"])
        router.add_api_route("/models", self.models)
        router.add_api_route("/models/{name:path}", self.model)
        return router

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatRequest, ChatReply)

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, CompletionRequest, CompletionReply)

    async def models(self) -> dict[str, Any]:
        names = self._drivers.table.models()
        return {"object": "list", "data": [self._model(name) for name in names]}

    async def model(self, name: str) -> dict[str, Any]:
        if name not in self._drivers.table.models():
            raise ModelNotFound(f"model {name!r} is not served here; GET /v1/models lists what is")
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "paceline"}

    async def _answer(
        self,
        http: Request,
        kind: type[ChatRequest] | type[CompletionRequest],
        reply_kind: type[Reply],
    ) -> Response:
        opened_at, settings = self._clock(), self._settings
        body = await read_body(http, max_bytes=settings.body_bytes, timeout_s=settings.body_s)
        request: AnyRequest = decode(body, kind)
        work = await while_connected(
            http.receive, self._work(request, fresh_id(reply_kind.id_prefix), opened_at)
        )
        generation = Generation(work, self._drivers)
        account = Account(generation, self._metrics, self._clock)
        try:
            reply = reply_kind(request, generation)
            if request.stream:
                return await self._streamed(http, generation, reply, account)
            content = await while_connected(http.receive, _whole(generation, reply))
        except BaseException as error:
            account.close(error)
            raise
        account.close()
        return Response(content, media_type="application/json")

    async def _streamed(
        self, http: Request, generation: Generation, reply: Reply, account: Account
    ) -> Response:
        """The status waits for the first token, as long as a client is content with silence: what
        fails early fails with a status of its own."""
        quiet = Alarm(self._settings.keepalive_s, generation.nudge)
        first = await while_connected(http.receive, quiet.over(generation.gained()))
        return EventStream(
            self._events(generation, reply, first, account, quiet),
            write_s=self._settings.write_s,
            on_close=account.close,
        )

    async def _events(
        self,
        generation: Generation,
        reply: Reply,
        gained: Gained,
        account: Account,
        quiet: Alarm,
    ) -> AsyncIterator[bytes]:
        """The stream's events; an error after the start is an event too, and the last one. The
        opening waits for the first token: by whose numerics it is made is known only then."""
        try:
            while not gained:
                yield KEEP_ALIVE
                gained = await quiet.over(generation.gained())
            yield reply.opening()
            while True:
                yield reply.chunks(gained) if gained else KEEP_ALIVE
                if generation.done:
                    break
                gained = await quiet.over(generation.gained())
            yield reply.closing()
        except Exception as error:
            known = as_known(error)
            self._metrics.rejected.labels(known.code).inc()
            account.close(known)
            yield sse(error_body(known))

    async def _work(self, request: AnyRequest, request_id: str, opened_at: float) -> Work:
        """Everything that can be wrong with a request is found here, before it is submitted."""
        settings = self._settings
        n, stops, _ = choices(request), stop_strings(request), request.wanted_logprobs()
        deadline = opened_at + timeout_s(request, settings.request_s)
        routes = await self._waiting.routes_of(request.model, deadline)
        text = await self._text_of(request.model, deadline)
        prompts = await prompts_of(request, text, settings.inline_chars)
        if len(prompts) * n > MAX_CHOICES:
            raise InvalidField("n", f"{len(prompts)} prompts times n={n} is above {MAX_CHOICES}")
        # A stream must fit wherever it may have to go on.
        held = min(route.pages_total for route in routes) * PAGE_TOKENS
        params = tuple(
            sampling_params(
                request,
                prompt_tokens=len(ids),
                context_tokens=min(text.max_context, held),
                vocab_size=text.vocab_size,
            )
            for ids in prompts
        )
        return Work(
            request_id=request_id,
            text=text,
            prompts=prompts,
            params=params,
            choices=n,
            stops=stops,
            include_stop=bool(request.include_stop_str_in_output),
            opened_at=opened_at,
            deadline=deadline,
        )

    async def _text_of(self, model: str, deadline: float) -> ModelText:
        """Raises DeadlineExceeded, and what `Library.open` raises."""
        try:
            async with asyncio.timeout(deadline - self._clock()):
                return await self._library.open(model)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the tokenizer of {model} was not here before the request's deadline; try again"
            ) from None


async def _whole(generation: Generation, reply: Reply) -> bytes:
    parts: dict[int, list[Delta]] = {}
    while not generation.done:
        for index, delta in await generation.gained():
            parts.setdefault(index, []).append(delta)
    return reply.whole(parts)
