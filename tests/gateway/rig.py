"""A whole gateway on a free port, with a scripted controller and drivers that speak the real
protocol over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import tokenizers

from paceline.checkpoint.store import Store
from paceline.gateway.app import Gateway
from paceline.gateway.library import Library
from paceline.gateway.server import Server, listen
from paceline.gateway.settings import Settings
from paceline.gateway.texts import bring_texts
from paceline.transport.front import AsyncFrontClient, FrontServer
from paceline.transport.keys import KeyPair
from paceline.types.control import ControllerCounts, GatewayBeat, Route, Routes
from paceline.types.errors import DeadlineExceeded
from paceline.types.facts import DriverLink, GatewayFacts
from paceline.types.ids import Epoch, GatewayId, InstanceId, NodeName, StreamId
from paceline.types.instance import InstanceView
from paceline.types.states import InstanceState
from paceline.types.stream import (
    Cancel,
    Closing,
    Finished,
    FinishReason,
    Rejected,
    Renew,
    StreamRecord,
    Submit,
    Token,
    Tokens,
)

MODEL = "tiny"
EOS, BOS = 256, 257
VOCAB = 258
MAX_CONTEXT = 512
FIRST = Epoch(1, 1)
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> tokenizers.Tokenizer:
    """One token per byte, so that every multi-byte character is split."""
    alphabet = _byte_alphabet()
    model = tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<bos>"])
    return tokenizer


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in of each byte, in the order of the bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    return [table[byte] for byte in range(256)]


def add_model(
    home: Path, name: str = MODEL, template: str | None = TEMPLATE, *, adds_bos: bool = False
) -> Path:
    """A checkpoint without weights: the gateway reads none."""
    tokenizer = byte_tokenizer()
    if adds_bos:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "eos_token_id": EOS,
    }
    said = {"eos_token": "<eos>", "bos_token": "<bos>"}
    store = Store(home)
    with store.staging(name) as directory:
        (directory / "config.json").write_text(json.dumps(config))
        tokenizer.save(str(directory / "tokenizer.json"))
        chat = {} if template is None else {"chat_template": template}
        (directory / "tokenizer_config.json").write_text(json.dumps(said | chat))
        return store.adopt(directory, name, "a test")


def ids_of(text: str) -> list[int]:
    return list(text.encode())


Answer = Callable[[StreamRecord], list[int]]
"""All ids of a stream: a pure function of prompt and parameters, as sampling is."""


NOTHING_COUNTED = ControllerCounts()


def say(text: str) -> Answer:
    """The same text to everyone, then the end of sequence."""
    return lambda _: [*ids_of(text), EOS]


class ScriptedDriver:
    """A driver that emits one token per stream and step, and fails as it is told."""

    def __init__(
        self,
        directory: Path,
        answer: Answer,
        *,
        instance: str = "i-1",
        model: str = MODEL,
        epoch: Epoch = FIRST,
        pace_s: float = 0.0,
        pages: int = 8,
        numerics_id: str = "n-1",
    ) -> None:
        self.answer = answer
        self.pace_s = pace_s
        self.keys = KeyPair.fresh()
        self.front = FrontServer.open(epoch, directory=directory, keys=self.keys)
        self.submitted: list[StreamRecord] = []
        self.cancelled: list[Cancel] = []
        self.renewed: list[Renew] = []
        self.reject: Rejected | None = None
        self.withheld: set[int] = set()
        """Positions whose token is drawn and not delivered, once."""
        self.deaf = False
        """As if stopped: reads nothing, sends nothing."""
        self.hold = False
        """Takes streams and emits nothing."""
        self.repeat = 1
        """How often each message is sent."""
        self.deadly: Callable[[StreamRecord], bool] = lambda record: False
        """Streams that it dies of, before it has drawn anything for anyone."""
        self.die_at: int | None = None
        self.closing_at: int | None = None
        self.dead = asyncio.Event()
        self._running: dict[StreamId, tuple[bytes, StreamRecord, list[int]]] = {}
        self._positions: dict[StreamId, int] = {}
        self._route = Route(
            instance=InstanceId(instance),
            model=model,
            epoch=epoch,
            node=NodeName("n1"),
            address=self.front.address,
            public_key=self.keys.public,
            numerics_id=numerics_id,
            running=0,
            waiting=0,
            pages_total=pages,
        )

    def route(self, **changes: Any) -> Route:
        return msgspec.structs.replace(self._route, **changes)

    async def run(self) -> None:
        while not self.dead.is_set():
            if not self.deaf:
                for peer, message in self.front.receive():
                    self._take(peer, message)
                if not self.hold:
                    self._step()
            await asyncio.sleep(self.pace_s or 0.001)

    def die(self) -> None:
        self.dead.set()
        self.front.close()

    def _take(self, peer: bytes, message: Submit | Cancel | Renew) -> None:
        match message:
            case Submit(record):
                self.submitted.append(record)
                if self.reject is not None:
                    refusal = msgspec.structs.replace(
                        self.reject, stream_id=record.stream_id, attempt=record.attempt
                    )
                    self.front.send(peer, refusal)
                    return
                ids = self.answer(record)[: record.params.max_tokens]
                self._running[record.stream_id] = (peer, record, ids)
                self._positions[record.stream_id] = len(record.emitted_ids)
            case Cancel(stream_id=stream_id):
                self.cancelled.append(message)
                self._running.pop(stream_id, None)
            case Renew():
                self.renewed.append(message)

    def _step(self) -> None:
        if any(self.deadly(record) for _, record, _ in self._running.values()):
            self.die()
            return
        for stream_id, (peer, record, ids) in tuple(self._running.items()):
            position = self._positions[stream_id]
            if position == self.die_at:
                self.die()
                return
            if position == self.closing_at:
                self.closing_at = None
                self._running.clear()
                self.front.send(peer, Closing("the line broke"))
                return
            self._emit(peer, record, ids, position)

    def _emit(self, peer: bytes, record: StreamRecord, ids: list[int], position: int) -> None:
        k = record.params.logprobs
        top = tuple((ids[position] + i, -0.5 - i) for i in range(k or 0))
        logprob = None if k is None else -0.5
        token = Token(record.stream_id, record.attempt, position, ids[position], logprob, top)
        self._positions[record.stream_id] = position + 1
        finished: tuple[Finished, ...] = ()
        if position + 1 == len(ids):
            reason = FinishReason.STOP if ids[-1] == EOS else FinishReason.LENGTH
            finished = (
                Finished(
                    stream_id=record.stream_id,
                    attempt=record.attempt,
                    emitted=len(ids),
                    reason=reason,
                ),
            )
            del self._running[record.stream_id]
        if position in self.withheld:
            self.withheld.discard(position)
            return
        for _ in range(self.repeat):
            self.front.send(peer, Tokens((token,), finished))


class ScriptedController:
    """Routes as the test says, answers from a table; silent while `away`."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.beats: list[GatewayBeat] = []
        self.away = False
        self._routes: asyncio.Queue[Routes] = asyncio.Queue()

    async def receive(self) -> Routes:
        return await self._routes.get()

    def send_beat(self, beat: GatewayBeat) -> bool:
        self.beats.append(beat)
        return not self.away

    async def ask(self, verb: str, body: dict[str, Any], timeout_s: float) -> Any:
        self.asked.append((verb, body))
        if self.away:
            await asyncio.sleep(timeout_s)
            raise DeadlineExceeded("the controller was out of reach")
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return answer(body) if callable(answer) else answer

    def say(
        self,
        routes: Iterable[Route] = (),
        views: Iterable[InstanceView] = (),
        term: int = 1,
        counts: ControllerCounts = NOTHING_COUNTED,
    ) -> None:
        self._routes.put_nowait(
            Routes(routes=tuple(routes), instances=tuple(views), term=term, counts=counts)
        )


def view(
    state: InstanceState = InstanceState.READY,
    *,
    name: str = "i-1",
    model: str = MODEL,
    retired: Epoch | None = None,
) -> InstanceView:
    return InstanceView(
        id=InstanceId(name),
        model=model,
        state=state,
        epoch=Epoch(1, 1),
        world_size=1,
        dtype="float32",
        reasons=(f"it is {state.value}",),
        runners=(),
        retired=retired,
    )


class Rig:
    def __init__(
        self,
        server: Server,
        gateway: Gateway,
        control: ScriptedController,
        url: str,
        keys: KeyPair,
        directory: Path,
    ) -> None:
        self.server = server
        self.gateway = gateway
        self.control = control
        self.url = url
        self.keys = keys
        # Without certificates to load, a client costs nothing.
        self.http = httpx.AsyncClient(base_url=url, timeout=20, verify=False)
        self.openai = self.openai_client("none")
        self._directory = directory
        self._runs: list[asyncio.Task[None]] = []
        self._drivers: list[ScriptedDriver] = []

    def driver(self, answer: Answer, **options: Any) -> ScriptedDriver:
        """A running driver that admits this gateway."""
        driver = ScriptedDriver(self._directory, answer, **options)
        driver.front.admit([self.keys.public])
        self._drivers.append(driver)
        self._runs.append(asyncio.create_task(driver.run()))
        return driver

    def serve(self, answer: Answer, **options: Any) -> ScriptedDriver:
        """A driver with the only route."""
        driver = self.driver(answer, **options)
        self.control.say([driver.route()], [view(model=driver.route().model)])
        return driver

    async def chat(self, **options: Any) -> Any:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **options}
        return await self.http.post("/v1/chat/completions", json=body)

    def openai_client(self, api_key: str) -> openai.AsyncOpenAI:
        plain = openai.DefaultAsyncHttpxClient(verify=False)
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, http_client=plain
        )

    async def until(self, holds: Callable[[], Any], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def metric(self, name: str) -> float:
        """Sum over all labels."""
        text = (await self.http.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith(f"paceline_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


QUICK = Settings(
    route_wait_s=0.5,
    gone_s=0.2,
    renew_s=0.1,
    link_silence_s=0.8,
    stall_s=2.0,
    stall_per_token_s=0.001,
    retry_s=0.02,
    retry_max_s=0.1,
    tick_s=0.05,
    ask_s=0.2,
    events_poll_s=0.02,
    beat_s=0.05,
    stop_s=0.1,
)


@asynccontextmanager
async def rig(
    directory: Path, settings: Settings = QUICK, ping_s: float = 0.1
) -> AsyncIterator[Rig]:
    """`directory` must be short: sockets lie there, and `home` below it."""
    home = directory / "home"
    if not home.exists():
        add_model(home)
    keys, control = KeyPair.fresh(), ScriptedController()
    listener = listen("127.0.0.1", 0, settings.write_s)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def facts(streams: int, links: tuple[DriverLink, ...]) -> GatewayFacts:
        return GatewayFacts(
            gateway_id=GatewayId("g"),
            pid=1,
            url=url,
            public_key=keys.public,
            streams=streams,
            links=links,
        )

    gateway = Gateway(
        control=control,
        dial=lambda route: AsyncFrontClient(route.address, route.public_key, keys, ping_s=ping_s),
        facts=facts,
        library=Library(Store(home), bring_texts(Store(home), keys)),
        settings=settings,
    )
    server = Server(gateway)
    made = Rig(server, gateway, control, url, keys, directory)
    serving = asyncio.create_task(server.serve([listener]))
    await made.until(lambda: server.started or serving.done())
    try:
        yield made
    finally:
        await made.http.aclose()
        await made.openai.close()
        # uvicorn's own way out sleeps a while; tests/gateway/test_process.py takes it.
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for one in server.servers:
            one.close()
        await server.lifespan.shutdown()
        for driver in made._drivers:
            driver.die()
        await asyncio.gather(*made._runs)
