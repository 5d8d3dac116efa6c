"""vLLM's engine on the CPU, stepped in its own process. Runs in the peer's environment."""

from __future__ import annotations

import itertools
import math
import os
import time
from typing import Any

# One process, so that its steps can be timed; it has to be said before vllm is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams, __version__
from vllm.inputs import TokensPrompt

from benchmarks.work import Outcome, Work
from benchmarks.worker import serve


class Vllm:
    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        self._llm = LLM(
            model=options["checkpoint"],
            dtype=options["dtype"],
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            max_model_len=options["context"],
            max_num_seqs=64,
            max_logprobs=0,
        )
        return {"version": __version__}

    def run(self, work: Work) -> Outcome:
        engine = self._llm.llm_engine
        params = SamplingParams(
            temperature=0.0, max_tokens=work.new, ignore_eos=True, detokenize=False
        )
        began = time.perf_counter()
        for i, prompt in enumerate(work.prompts):
            engine.add_request(str(i), TokensPrompt(prompt_token_ids=prompt), params)
        answers: list[list[int]] = [[] for _ in work.prompts]
        times: list[float] = []
        prefilled, early = 0.0, 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                answers[int(output.request_id.split("-")[0])] = list(output.outputs[0].token_ids)
            times.append(time.perf_counter())
            if not prefilled and all(answers):
                prefilled, early = times[-1], sum(map(len, answers))
        after = [t for t in times if t >= prefilled]
        return Outcome(
            prefill_s=prefilled - began,
            decode_s=times[-1] - prefilled,
            decoded=sum(map(len, answers)) - early,
            answers=answers,
            gaps_s=[b - a for a, b in itertools.pairwise(after)],
        )

    def perplexity(self, ids: list[int]) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate(TokensPrompt(prompt_token_ids=ids), params, use_tqdm=False)
        given = output.prompt_logprobs[1:]
        loss = -sum(at[id_].logprob for at, id_ in zip(given, ids[1:], strict=True))
        return math.exp(loss / (len(ids) - 1))


if __name__ == "__main__":
    serve(Vllm())
