"""Answers in OpenAI's shapes: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from paceline.gateway.generation import Generation
from paceline.gateway.logprobs import chat_logprobs, completion_logprobs
from paceline.gateway.requests import AnyRequest
from paceline.gateway.streams import Delta

_encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def sse(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


class Reply:
    """What the two kinds of answer share. `system_fingerprint` is the numerics id: equal ones
    promise equal tokens."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, request: AnyRequest, generation: Generation) -> None:
        options = request.stream_options
        self._generation = generation
        self._created = int(time.time())
        self._with_ids = bool(request.return_token_ids)
        self._with_usage = bool(options and options.include_usage)
        self._with_logprobs = request.wanted_logprobs() is not None

    def opening(self) -> bytes:
        """Chunks that come before any text."""
        return b""

    def chunks(self, gained: Iterable[tuple[int, Delta]]) -> bytes:
        return b"".join(
            sse(self._chunk([choice]))
            for index, delta in gained
            for choice in self._chunk_choices(index, delta)
        )

    def closing(self) -> bytes:
        if not self._with_usage:
            return DONE
        return sse({**self._chunk([]), "usage": self._generation.usage}) + DONE

    def _prompt_ids(self) -> dict[str, Any]:
        """vLLM's extension `return_token_ids`; of several prompts, the first."""
        return {"prompt_token_ids": self._generation.work.prompts[0]} if self._with_ids else {}

    def whole(self, parts: Mapping[int, list[Delta]]) -> bytes:
        choices = [self._whole_choice(index, _joined(parts[index])) for index in sorted(parts)]
        head = self._head(self.whole_object)
        return _encode({**head, "choices": choices, "usage": self._generation.usage})

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head(self.chunk_object), "choices": choices}
        return {**chunk, "usage": None} if self._with_usage else chunk

    def _head(self, kind: str) -> dict[str, Any]:
        generation = self._generation
        return {
            "id": generation.work.request_id,
            "object": kind,
            "created": self._created,
            "model": generation.work.text.name,
            "system_fingerprint": generation.numerics_id,
        }

    def _ids(self, index: int, delta: Delta, *, with_prompt: bool) -> dict[str, Any]:
        """vLLM's extension `return_token_ids`."""
        if not self._with_ids:
            return {}
        prompt = self._generation.lives[index].stream.prompt_ids if with_prompt else None
        return {"token_ids": delta.ids, **({"prompt_token_ids": prompt} if with_prompt else {})}

    def _chunk_choices(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _whole_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        raise NotImplementedError


class ChatReply(Reply):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            sse(
                self._chunk([{"index": i, "delta": delta, "logprobs": None, "finish_reason": None}])
            )
            for i in range(len(self._generation.lives))
        )

    def _chunk_choices(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """The end comes in a chunk of its own, as clients know it."""
        choices = []
        if delta.text or delta.entries or (self._with_ids and delta.ids):
            choices.append(
                {
                    "index": index,
                    "delta": {"content": delta.text},
                    "logprobs": self._logprobs(delta),
                    "finish_reason": None,
                    **self._ids(index, delta, with_prompt=False),
                }
            )
        if delta.finish_reason is not None:
            reason = delta.finish_reason.value
            choices.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})
        return choices

    def _whole_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
            **self._ids(index, delta, with_prompt=True),
        }

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        return chat_logprobs(delta.entries, self._generation.work.text.tokenizer)


class CompletionReply(Reply):
    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _chunk_choices(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        shows = delta.text or delta.entries or delta.finish_reason or self._with_ids
        return [self._choice(index, delta, with_prompt=False)] if shows else []

    def _whole_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        return self._choice(index, delta, with_prompt=True)

    def _choice(self, index: int, delta: Delta, *, with_prompt: bool) -> dict[str, Any]:
        logprobs = None
        if self._with_logprobs:
            tokenizer = self._generation.work.text.tokenizer
            logprobs = completion_logprobs(delta.entries, tokenizer)
        return {
            "index": index,
            "text": delta.text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
            **self._ids(index, delta, with_prompt=with_prompt),
        }


def _joined(deltas: list[Delta]) -> Delta:
    return Delta(
        text="".join(delta.text for delta in deltas),
        ids=tuple(id_ for delta in deltas for id_ in delta.ids),
        entries=tuple(entry for delta in deltas for entry in delta.entries),
        finish_reason=deltas[-1].finish_reason if deltas else None,
    )
