"""llama.cpp through its C API, compiled for this processor; GGUF files made by its own quantiser.

Runs in the peer's environment (`make peers`).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.work import Outcome, Work
from benchmarks.worker import serve

FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7}
FLASH = {"plain attention": 0, "flash attention": 1}
"""Which is faster here is tried for each kind of work."""
TRIAL_TOKENS = 12
CONTEXT_STEP = 256
"""It rounds a stream's context up to this."""
CHUNK = 512


class Batch:
    """llama.cpp's batch: rows of (token, position, sequence), some of which give logits."""

    def __init__(self, rows: int) -> None:
        self.raw = llama_cpp.llama_batch_init(rows, 0, 1)

    def fill(self, rows: list[tuple[int, int, int, bool]]) -> None:
        raw = self.raw
        raw.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            raw.token[i] = token
            raw.pos[i] = position
            raw.n_seq_id[i] = 1
            raw.seq_id[i][0] = sequence
            raw.logits[i] = wanted


class Context:
    """The KV of some streams, and one way to compute attention."""

    def __init__(self, model: Any, streams: int, tokens: int, threads: int, flash: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = streams * math.ceil(tokens / CONTEXT_STEP) * CONTEXT_STEP
        params.n_seq_max = streams
        params.n_batch = max(CHUNK, streams * tokens)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = flash
        params.no_perf = True
        self._raw = llama_cpp.llama_init_from_model(model, params)
        if not self._raw:
            raise MemoryError(f"no context for {streams} streams of {tokens} tokens")
        self._batch = Batch(params.n_batch)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._raw), True)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        self._batch.fill(rows)
        code = llama_cpp.llama_decode(self._raw, self._batch.raw)
        if code != 0:
            raise RuntimeError(f"llama_decode gave {code}")

    def logits(self, row: int) -> np.ndarray:
        """Of a row of the last batch; valid until the next."""
        found = llama_cpp.llama_get_logits_ith(self._raw, row)
        return np.ctypeslib.as_array(found, shape=(self._vocabulary,))

    def close(self) -> None:
        llama_cpp.llama_free(self._raw)


class LlamaCpp:
    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        self._threads = options["threads"]
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        file = _quantised(Path(options["gguf"]), options["type"], Path(options["file"]))
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(file), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self._contexts: dict[tuple[int, int], Context] = {}
        self._facts = {
            "version": llama_cpp.llama_version().decode(),
            "system": llama_cpp.llama_print_system_info().decode(),
            "file_bytes": file.stat().st_size,
        }
        return self._facts

    def run(self, work: Work) -> Outcome:
        return self._generate(self._context(work), work)

    def perplexity(self, ids: list[int]) -> float:
        context = Context(self._model, 1, len(ids), self._threads, FLASH["flash attention"])
        loss = 0.0
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            context.decode([(id_, start + i, 0, True) for i, id_ in enumerate(part)])
            for i, following in enumerate(ids[start + 1 : start + 1 + len(part)]):
                logits = context.logits(i).astype(np.float64)
                most = logits.max()
                loss += most + math.log(np.exp(logits - most).sum()) - logits[following]
        context.close()
        return math.exp(loss / (len(ids) - 1))

    def _context(self, work: Work) -> Context:
        tokens = max(map(len, work.prompts)) + work.new
        key = (work.streams, math.ceil(tokens / CONTEXT_STEP))
        if key not in self._contexts:
            self._contexts[key] = self._fastest(work, tokens)
        return self._contexts[key]

    def _fastest(self, work: Work, tokens: int) -> Context:
        trial = Work(work.prompts, min(work.new, TRIAL_TOKENS))
        made = {
            name: Context(self._model, work.streams, tokens, self._threads, flash)
            for name, flash in FLASH.items()
        }
        times = {}
        for name, context in [*made.items(), *made.items()]:
            outcome = self._generate(context, trial)
            took = outcome.decode_s if outcome.decoded else outcome.prefill_s
            times[name] = min(took, times.get(name, math.inf))
        best = min(times, key=times.__getitem__)
        for name, context in made.items():
            if name != best:
                context.close()
        return made[best]

    def _generate(self, context: Context, work: Work) -> Outcome:
        context.clear()
        lengths = [len(prompt) for prompt in work.prompts]
        rows = [
            (id_, i, sequence, i == len(prompt) - 1)
            for sequence, prompt in enumerate(work.prompts)
            for i, id_ in enumerate(prompt)
        ]
        ends = np.cumsum(lengths) - 1
        began = time.perf_counter()
        context.decode(rows)
        answers = [[int(context.logits(int(end)).argmax())] for end in ends]
        times = [time.perf_counter()]
        for position in range(work.new - 1):
            context.decode(
                [(ids[-1], lengths[s] + position, s, True) for s, ids in enumerate(answers)]
            )
            for sequence, ids in enumerate(answers):
                ids.append(int(context.logits(sequence).argmax()))
            times.append(time.perf_counter())
        return Outcome(
            prefill_s=times[0] - began,
            decode_s=times[-1] - times[0],
            decoded=work.streams * (work.new - 1),
            answers=answers,
            gaps_s=[b - a for a, b in itertools.pairwise(times)],
        )


def _quantised(source: Path, file_type: str, target: Path) -> Path:
    """The file in another type, made from `source` once."""
    if target.exists():
        return target
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    partial = target.with_suffix(f".{os.getpid()}")
    code = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(partial), ctypes.byref(params)
    )
    if code != 0:
        raise RuntimeError(f"llama_model_quantize to {file_type} gave {code}")
    partial.rename(target)
    return target


if __name__ == "__main__":
    serve(LlamaCpp())
