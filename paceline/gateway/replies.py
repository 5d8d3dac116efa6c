"""Answers in OpenAI's shapes: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from paceline.checkpoint.tokenizer import Tokenizer
from paceline.gateway.generation import Generation
from paceline.gateway.logprobs import chat_logprobs, completion_logprobs
from paceline.gateway.requests import AnyRequest
from paceline.gateway.streams import Delta, TokenEntry

_encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

Choice = dict[str, Any]


def sse(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


class Reply:
    """What the two kinds of answer share.

    `system_fingerprint` is the numerics id: equal ones promise equal tokens. `return_token_ids`
    adds, as vLLM does, the choices' `token_ids` and the `prompt_token_ids`.
    """

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    shape_logprobs: ClassVar[Callable[[Sequence[TokenEntry], Tokenizer], dict[str, Any]]]

    def __init__(self, request: AnyRequest, generation: Generation) -> None:
        options = request.stream_options
        self._generation = generation
        self._created = int(time.time())
        self._with_ids = bool(request.return_token_ids)
        self._with_usage = bool(options and options.include_usage)
        self._with_logprobs = request.wanted_logprobs() is not None

    def opening(self) -> bytes:
        """Chunks that come before any text."""
        return sse({**self._chunk([]), **self._prompt_ids()}) if self._with_ids else b""

    def chunks(self, gained: Iterable[tuple[int, Delta]]) -> bytes:
        """The events of these deltas; none where they show nothing."""
        return b"".join(
            sse(self._chunk([choice]))
            for index, delta in gained
            for choice in self._chunk_choices(index, delta)
        )

    def closing(self) -> bytes:
        if not self._with_usage:
            return DONE
        return sse({**self._chunk([]), "usage": self._generation.usage}) + DONE

    def whole(self, parts: Mapping[int, list[Delta]]) -> bytes:
        """The answer in one piece, from all deltas of each choice."""
        choices = [self._whole_choice(index, _joined(parts[index])) for index in sorted(parts)]
        return _encode(
            {
                **self._head(self.whole_object),
                "choices": choices,
                "usage": self._generation.usage,
                **self._prompt_ids(),
            }
        )

    def _chunk_choices(self, index: int, delta: Delta) -> list[Choice]:
        raise NotImplementedError

    def _whole_choice(self, index: int, delta: Delta) -> Choice:
        raise NotImplementedError

    def _chunk(self, choices: list[Choice]) -> dict[str, Any]:
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

    def _choice(self, index: int, delta: Delta, content: dict[str, Any]) -> Choice:
        choice = {
            "index": index,
            **content,
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }
        return {**choice, "token_ids": delta.ids} if self._with_ids else choice

    def _shows(self, delta: Delta) -> bool:
        return bool(delta.text or delta.entries or (self._with_ids and delta.ids))

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        return type(self).shape_logprobs(delta.entries, self._generation.work.text.tokenizer)

    def _prompt_ids(self) -> dict[str, Any]:
        """Of one prompt its ids, of several a list of them each."""
        if not self._with_ids:
            return {}
        prompts = self._generation.work.prompts
        return {"prompt_token_ids": prompts[0] if len(prompts) == 1 else prompts}


class ChatReply(Reply):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    shape_logprobs = chat_logprobs

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(len(self._generation.lives))
        ]
        return super().opening() + b"".join(sse(self._chunk([choice])) for choice in choices)

    def _chunk_choices(self, index: int, delta: Delta) -> list[Choice]:
        """The end comes in a chunk of its own, as clients know it."""
        choices = []
        if self._shows(delta):
            text = msgspec.structs.replace(delta, finish_reason=None)
            choices.append(self._choice(index, text, {"delta": {"content": delta.text}}))
        if delta.finish_reason is not None:
            end = {"index": index, "delta": {}, "logprobs": None}
            choices.append({**end, "finish_reason": delta.finish_reason})
        return choices

    def _whole_choice(self, index: int, delta: Delta) -> Choice:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return self._choice(index, delta, {"message": message})


class CompletionReply(Reply):
    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    shape_logprobs = completion_logprobs

    def _chunk_choices(self, index: int, delta: Delta) -> list[Choice]:
        if self._shows(delta) or delta.finish_reason is not None:
            return [self._whole_choice(index, delta)]
        return []

    def _whole_choice(self, index: int, delta: Delta) -> Choice:
        return self._choice(index, delta, {"text": delta.text})


def _joined(deltas: list[Delta]) -> Delta:
    return Delta(
        text="".join(delta.text for delta in deltas),
        ids=tuple(id_ for delta in deltas for id_ in delta.ids),
        entries=tuple(entry for delta in deltas for entry in delta.entries),
        finish_reason=deltas[-1].finish_reason,
    )
