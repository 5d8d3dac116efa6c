"""The older completions API, through the real OpenAI client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paceline.types.stream import StreamRecord
from tests.gateway.rig import EOS, MODEL, ids_of, rig, say

pytestmark = pytest.mark.anyio


def echo(record: StreamRecord) -> list[int]:
    """Answers with the prompt in capitals."""
    return [*bytes(record.prompt_ids).upper(), EOS]


FORMS: list[tuple[Any, list[str]]] = [
    ("ab", ["AB"]),
    (["ab", "cd"], ["AB", "CD"]),
    (ids_of("ab"), ["AB"]),
    ([ids_of("ab"), ids_of("cd")], ["AB", "CD"]),
]


async def test_every_form_of_prompt(short: Path) -> None:
    async with rig(short) as r:
        r.serve(echo)
        for prompt, texts in FORMS:
            answer = await r.openai.completions.create(model=MODEL, prompt=prompt, n=2)
            got = [choice.text for choice in answer.choices]
            assert got == [text for text in texts for _ in range(2)]
            assert [choice.index for choice in answer.choices] == list(range(2 * len(texts)))
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == 2 * len(texts)
            assert answer.usage.completion_tokens == 2 * 3 * len(texts)


async def test_sixteen_tokens_unless_told_otherwise(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x" * 100))
        answer = await r.openai.completions.create(model=MODEL, prompt="a")
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("x" * 16, "length")


async def test_logprobs_in_the_older_shape(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("né!"))
        answer = await r.openai.completions.create(model=MODEL, prompt="a", logprobs=1)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == ["n", "\ufffd", "\ufffd", "!"]
        assert logprobs.token_logprobs == [-0.5] * 4
        assert logprobs.text_offset == [0, 1, 1, 2]
        assert logprobs.top_logprobs is not None
        assert logprobs.top_logprobs[0] == {"n": -0.5}


async def test_a_stream_with_usage(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("héllo"))
        stream = await r.openai.completions.create(
            model=MODEL, prompt="abc", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].text for c in chunks if c.choices) == "héllo"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 3 + len(ids_of("héllo")) + 1


async def test_the_stop_string_is_kept_on_request(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("one. two."))
        answer = await r.openai.completions.create(
            model=MODEL, prompt="a", stop=".", extra_body={"include_stop_str_in_output": True}
        )
        assert answer.choices[0].text == "one."
