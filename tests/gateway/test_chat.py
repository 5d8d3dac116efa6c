"""Answers through the real OpenAI client."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from paceline.types.model import PAGE_TOKENS
from paceline.types.stream import SamplingParams, StreamRecord
from tests.gateway.rig import BOS, EOS, MODEL, QUICK, add_model, ids_of, rig, say

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]


async def test_a_whole_answer(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("Héllo 🌍!"))
        answer = await r.openai.chat.completions.create(model=MODEL, messages=HI, seed=7)
        choice = answer.choices[0]
        assert choice.message.content == "Héllo 🌍!"
        assert choice.finish_reason == "stop"
        rendered = ids_of("<user>hi\n<assistant>")
        assert driver.submitted[0].prompt_ids == tuple(rendered)
        assert answer.usage is not None
        made = len(ids_of("Héllo 🌍!")) + 1
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(rendered), made)
        assert answer.usage.total_tokens == len(rendered) + made
        assert answer.system_fingerprint == "n-1"


async def test_a_streamed_answer(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("Héllo 🌍!"))
        stream = await r.openai.chat.completions.create(
            model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(texts) == "Héllo 🌍!"
        assert not any("\ufffd" in text for text in texts)
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert not chunks[-1].choices
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == len(ids_of("Héllo 🌍!")) + 1


async def test_choices_differ_in_their_number_alone(short: Path) -> None:
    def by_choice(record: StreamRecord) -> list[int]:
        return [*ids_of(f"choice {record.params.choice}"), EOS]

    async with rig(short) as r:
        driver = r.serve(by_choice)
        answer = await r.openai.chat.completions.create(model=MODEL, messages=HI, n=3)
        assert [c.index for c in answer.choices] == [0, 1, 2]
        assert [c.message.content for c in answer.choices] == [f"choice {i}" for i in range(3)]
        seeds = {record.params.seed for record in driver.submitted}
        assert len(seeds) == 1
        prompt = len(driver.submitted[0].prompt_ids)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == prompt
        assert answer.usage.completion_tokens == 3 * (len("choice 0") + 1)


async def test_streamed_choices_come_apart_again(short: Path) -> None:
    async with rig(short) as r:
        r.serve(lambda record: [*ids_of("abc"[record.params.choice] * 20), EOS])
        stream = await r.openai.chat.completions.create(model=MODEL, messages=HI, n=3, stream=True)
        texts, ends = ["", "", ""], []
        async for chunk in stream:
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
        assert texts == ["a" * 20, "b" * 20, "c" * 20]
        assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_cuts_the_text_and_cancels_the_driver(
    short: Path, stream: bool
) -> None:
    async with rig(short) as r:
        driver = r.serve(lambda _: ids_of("one STOP" + "x" * 100), pace_s=0.005)
        text, reason = "", None
        if stream:
            chunks = await r.openai.chat.completions.create(
                model=MODEL, messages=HI, stop="STOP", stream=True
            )
            async for chunk in chunks:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
        else:
            answer = await r.openai.chat.completions.create(
                model=MODEL, messages=HI, stop=["nothing", "STOP"]
            )
            text, reason = answer.choices[0].message.content or "", answer.choices[0].finish_reason
            assert answer.usage is not None
            assert answer.usage.completion_tokens == len("one STOP")
        assert (text, reason) == ("one ", "stop")
        await r.until(lambda: driver.cancelled)


async def test_length_ends_it_and_extensions_reach_the_driver(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("a long answer"))
        answer = await r.openai.chat.completions.create(
            model=MODEL,
            messages=HI,
            max_completion_tokens=6,
            temperature=0.5,
            top_p=0.9,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            logit_bias={"65": -100},
            seed=11,
            extra_body={
                "top_k": 5,
                "min_p": 0.1,
                "repetition_penalty": 1.1,
                "min_tokens": 2,
                "ignore_eos": True,
                "stop_token_ids": [66],
                "timeout": 9.0,
                "something_harmless": 1,
            },
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.content == "a long"
        assert driver.submitted[0].params == SamplingParams(
            max_tokens=6,
            seed=11,
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            logit_bias={65: -100.0},
            min_tokens=2,
            ignore_eos=True,
            stop_token_ids=(66,),
        )


async def test_defaults_are_openais_and_the_rest_of_the_context(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"), pages=4)
        await r.openai.chat.completions.create(model=MODEL, messages=HI)
        record = driver.submitted[0]
        assert record.params.max_tokens == 4 * PAGE_TOKENS - len(record.prompt_ids)
        assert (record.params.temperature, record.params.top_p) == (1.0, 1.0)


async def test_logprobs(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("né"))
        answer = await r.openai.chat.completions.create(
            model=MODEL, messages=HI, logprobs=True, top_logprobs=2
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [entry.bytes for entry in logprobs.content] == [[b] for b in "né".encode()]
        assert [entry.token for entry in logprobs.content] == ["n", "\ufffd", "\ufffd"]
        first = logprobs.content[0]
        assert first.logprob == -0.5
        assert [(top.token, top.logprob) for top in first.top_logprobs] == [
            ("n", -0.5),
            ("o", -1.5),
        ]


async def test_streamed_logprobs_are_those_of_the_whole(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("one STOP two"))
        options = {"model": MODEL, "messages": HI, "logprobs": True, "stop": ["STOP"]}
        whole = await r.openai.chat.completions.create(**options)
        streamed = []
        async for chunk in await r.openai.chat.completions.create(**options, stream=True):
            found = chunk.choices[0].logprobs
            streamed += found.content or [] if found else []
        assert whole.choices[0].logprobs is not None
        assert streamed == whole.choices[0].logprobs.content
        assert "".join(entry.token for entry in streamed) == "one "


async def test_parts_of_a_message_and_the_developer_role(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        await r.chat(
            messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
        )
        assert driver.submitted[0].prompt_ids == tuple(ids_of("<system>d\n<user>a\nb\n<assistant>"))


async def test_token_ids_on_request(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("hé"))
        whole = (await r.chat(return_token_ids=True)).json()
        assert whole["choices"][0]["token_ids"] == [*ids_of("hé"), EOS]
        assert whole["prompt_token_ids"] == list(driver.submitted[0].prompt_ids)
        lines = (await r.chat(return_token_ids=True, stream=True)).text.split("\n\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
        ids = [i for c in chunks for choice in c["choices"] for i in choice.get("token_ids", [])]
        assert ids == whole["choices"][0]["token_ids"]


async def test_a_long_prompt_is_tokenised_beside_the_loop(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, inline_chars=10)) as r:
        driver = r.serve(say("x"))
        text = "word " * 60
        answer = await r.chat(messages=[{"role": "user", "content": text}])
        assert answer.status_code == 200
        assert driver.submitted[0].prompt_ids == tuple(ids_of(f"<user>{text}\n<assistant>"))


async def test_bos_is_added_to_plain_prompts_and_left_to_the_template(short: Path) -> None:
    add_model(short / "home", adds_bos=True, template="<bos>{{ messages[0].content }}")
    async with rig(short) as r:
        driver = r.serve(say("x"))
        await r.chat()
        await r.openai.completions.create(model=MODEL, prompt="hi")
        assert [record.prompt_ids for record in driver.submitted] == [(BOS, *ids_of("hi"))] * 2
