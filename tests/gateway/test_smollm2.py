"""With the tokenizer and the template of the real default model."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.checkpoint.tokenizer import Tokenizer
from paceline.types.stream import StreamRecord
from tests.gateway.rig import rig
from tests.support.models import smollm2_dir

pytestmark = pytest.mark.anyio

ANSWER = "The capital of France is Paris. 🗼 Čau, 世界!"


async def test_a_chat_in_the_models_own_words(short: Path) -> None:
    checkpoint = smollm2_dir()
    tokenizer = Tokenizer.load(checkpoint)
    ids = tokenizer.encode(ANSWER, add_special_tokens=False)
    end = min(tokenizer.eos_ids)

    def answer(_: StreamRecord) -> list[int]:
        return [*ids, end]

    (short / "home").mkdir()
    (short / "home" / "models").symlink_to(checkpoint.parent)
    async with rig(short) as r:
        driver = r.serve(answer, model=checkpoint.name, pages=100)
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        text = ""
        stream = await r.openai.chat.completions.create(
            model=checkpoint.name, messages=messages, stream=True, logprobs=True
        )
        raw = b""
        async for chunk in stream:
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            if choice.logprobs is not None:
                for entry in choice.logprobs.content or []:
                    raw += bytes(entry.bytes or [])
        assert text == ANSWER
        assert raw.decode() == ANSWER
        prompt = tokenizer.decode(driver.submitted[0].prompt_ids, skip_special_tokens=False)
        assert "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n" in prompt
        assert prompt.endswith("<|im_start|>assistant\n")
