"""`paceline run`: one question, answered by a running cluster or by one made for this call."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from paceline.cli import show
from paceline.cli.api import Api
from paceline.cli.models import ensure_model
from paceline.cli.private import private_cluster
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.states import InstanceState

READY_S = 600.0
"""How long an instance may take to load; its reasons are shown meanwhile."""

POLL_S = 0.2
NO_TEMPLATE = "chat_template_missing"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of whom."""

    model: str
    prompt: str
    system: str | None = None
    min_nodes: int = 1
    max_nodes: int | None = None
    dtype: str = "auto"
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; `ready_s` runs from the start of the command, the others from the request."""

    ready_s: float
    first_token_s: float
    total_s: float
    prompt_tokens: int
    tokens: int
    tokens_per_s: float
    """After the first token."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: str
    placement: list[dict[str, Any]]
    timings: Timings


class Reply:
    """A streamed answer as it grows."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.prompt_token_ids: list[int] = []
        self.finish_reason = ""
        self.usage: dict[str, int] = {}
        self.asked_at = time.monotonic()
        self.first_at: float | None = None

    def take(self, event: dict[str, Any]) -> str:
        """Keep what an SSE event says; returns the text it adds."""
        self.prompt_token_ids = event.get("prompt_token_ids") or self.prompt_token_ids
        self.usage = event.get("usage") or self.usage
        added = ""
        for choice in event.get("choices", ()):
            added += choice.get("text") or choice.get("delta", {}).get("content") or ""
            self.token_ids += choice.get("token_ids") or ()
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if self.first_at is None and (added or self.token_ids):
            self.first_at = time.monotonic()
        self.text.append(added)
        return added

    def timings(self, ready_s: float) -> Timings:
        now = time.monotonic()
        first = self.first_at or now
        tokens = self.usage.get("completion_tokens", len(self.token_ids))
        return Timings(
            ready_s=ready_s,
            first_token_s=first - self.asked_at,
            total_s=now - self.asked_at,
            prompt_tokens=self.usage.get("prompt_tokens", len(self.prompt_token_ids)),
            tokens=tokens,
            tokens_per_s=max(0, tokens - 1) / (now - first) if now > first else 0.0,
        )


@contextmanager
def cluster_for(home: Home, api: Api | None, nodes: int | None, min_nodes: int) -> Iterator[Api]:
    """The running cluster, unless there is none or `nodes` asks for one of our own."""
    if api is not None and nodes is None:
        yield api
        return
    with private_cluster(home, max(nodes or 1, min_nodes)) as own:
        yield own


def run(home: Home, api: Api | None, nodes: int | None, question: Question) -> Answered:
    """Ask and stream the answer; what becomes of it is told as well as returned."""
    begun = time.monotonic()
    ensure_model(question.model, home)
    with cluster_for(home, api, nodes, question.min_nodes) as cluster:
        instance = ready_instance(cluster, question)
        ready_s = time.monotonic() - begun
        show.err.print(_headline(instance), markup=False)
        reply = ask(cluster, question)
        return Answered(
            text="".join(reply.text),
            token_ids=tuple(reply.token_ids),
            prompt_token_ids=tuple(reply.prompt_token_ids),
            finish_reason=reply.finish_reason,
            placement=placement(instance),
            timings=reply.timings(ready_s),
        )


def ready_instance(api: Api, question: Question) -> show.Row:
    """An instance that fits the question, made if there is none, once it is ready.

    Raises Unavailable, with the instance's own reasons, when it is not ready in time.
    """
    found = _existing(api, question) or api.post(
        "/api/instances",
        {
            "model": question.model,
            "min_nodes": question.min_nodes,
            "max_nodes": question.max_nodes,
            "dtype": question.dtype,
        },
    )
    deadline = time.monotonic() + READY_S
    told = ""
    while found["state"] != InstanceState.READY:
        if time.monotonic() > deadline:
            raise Unavailable(f"{found['id']} is {found['state']}: {'; '.join(found['reasons'])}")
        said = "; ".join(found["reasons"])
        if said and said != told:
            told = said
            show.err.print(said, markup=False, style="dim")
        time.sleep(POLL_S)
        found = api.get(f"/api/instances/{found['id']}")
    return found


def _existing(api: Api, question: Question) -> show.Row | None:
    most = question.max_nodes or sys.maxsize
    for instance in api.get("/api/instances"):
        serves = instance["model"] == question.model and instance["state"] not in (
            InstanceState.DRAINING,
            InstanceState.STOPPED,
        )
        if serves and question.min_nodes <= instance["world_size"] <= most:
            return instance  # type: ignore[no-any-return]
    return None


def ask(api: Api, question: Question) -> Reply:
    """Stream the answer; as a chat where the model has a template, else as a completion."""
    try:
        return _stream(api, "/v1/chat/completions", question, {"messages": _messages(question)})
    except InvalidRequest as error:
        if error.code != NO_TEMPLATE or question.system is not None:
            raise
        show.err.print("no chat template: the prompt is continued as it is", style="dim")
        return _stream(api, "/v1/completions", question, {"prompt": question.prompt})


def _stream(api: Api, path: str, question: Question, body: dict[str, Any]) -> Reply:
    options = {
        "model": question.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "temperature": question.temperature,
        "max_tokens": question.max_tokens or (256 if "prompt" in body else None),
        "seed": question.seed,
    }
    reply = Reply()
    given = {key: value for key, value in options.items() if value is not None}
    for event in api.events(path, body | given):
        show.answer(reply.take(event))
    show.answer("\n")
    return reply


def _messages(question: Question) -> list[dict[str, str]]:
    system = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": question.prompt}]


def placement(instance: show.Row) -> list[dict[str, Any]]:
    return [
        {"rank": r["rank"], "node": r["node"], "layers": r["layers"], "runner": r["id"]}
        for r in sorted(instance["runners"], key=lambda r: r["rank"])
    ]


def _headline(instance: show.Row) -> str:
    seats = [
        f"rank {r['rank']} on {r['node']} (layers {show.layers(r)})"
        for r in sorted(instance["runners"], key=lambda r: r["rank"])
    ]
    return (
        f"{instance['model']} ({instance['dtype']}), world_size {instance['world_size']}: "
        + ", ".join(seats)
    )


def closing_line(timings: Timings) -> str:
    return (
        f"{timings.tokens} tokens at {timings.tokens_per_s:.1f}/s; first after "
        f"{timings.first_token_s * 1000:.0f} ms ({timings.prompt_tokens} prompt tokens); "
        f"ready after {timings.ready_s:.1f} s"
    )


def prompt_from(argument: str | None) -> str:
    """The prompt given, else all of stdin."""
    prompt = argument if argument is not None else sys.stdin.read()
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty; give it as an argument or on stdin")
    return prompt
