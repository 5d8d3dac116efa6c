"""The real SmolLM2: greedy text against what `transformers` wrote (see record_greedy.py), memory.

The ops that a user of this machine gets write all of it, any others a part.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer

from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Span
from tests.engine.conftest import OPS
from tests.engine.line import Line
from tests.engine.record_greedy import NEW_TOKENS, RECORDED
from tests.support.models import smollm2_dir

LAYERS = 30
PAGES_EACH = 3


def _greedy(line: Line, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts at once: one step for the prompts, then one for each token."""
    tables = [range(PAGES_EACH * i, PAGES_EACH * (i + 1)) for i in range(len(prompts))]
    written = [list(ids) for ids in prompts]
    done = [0] * len(prompts)
    for _ in range(NEW_TOKENS):
        spans, rows = [], []
        for i, ids in enumerate(written):
            pages = tuple(tables[i][: (len(ids) - 1) // PAGE_TOKENS + 1])
            spans.append(Span(i, done[i], len(ids) - done[i], pages, True))
            rows += ids[done[i] :]
            done[i] = len(ids)
        for ids, token in zip(written, line.step(spans, rows).argmax(1).tolist(), strict=True):
            ids.append(token)
    return [ids[len(prompt) :] for ids, prompt in zip(written, prompts, strict=True)]


def test_greedy_text_equals_that_of_transformers(ops):
    recorded = json.loads(RECORDED.read_text())
    assert len(recorded) == 20
    if ops != OPS[-1]:
        recorded = recorded[::5]
    prompts = [row["prompt_ids"] for row in recorded]
    line = Line(smollm2_dir(), [11, LAYERS - 11], ops, kv_pages=PAGES_EACH * len(prompts))
    found = _greedy(line, prompts)
    tokenizer = Tokenizer.from_file(str(smollm2_dir() / "tokenizer.json"))
    for ids, row in zip(found, recorded, strict=True):
        assert tokenizer.decode(ids) == tokenizer.decode(row["greedy_ids"])
    assert found == [row["greedy_ids"] for row in recorded]


LOAD_HALF = """
import sys
from pathlib import Path
from paceline.engine.stage import Stage
from paceline.types.model import Shard

def rss(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10

whole, anonymous = rss("VmRSS:"), rss("RssAnon:")
shard = Shard(start=0, stop=15, layers=30)
stage = Stage.load(Path(sys.argv[1]), shard, kv_pages=64, dtype=sys.argv[2])
print(stage.weight_bytes, rss("RssAnon:") - anonymous, rss("VmHWM:") - whole)
"""


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [("float32", 260e6, 340e6), ("int8", 65e6, 85e6), ("int4", 55e6, 62e6)],
)
def test_a_rank_takes_its_shards_memory_and_no_more(dtype, least, most):
    command = [sys.executable, "-c", LOAD_HALF, str(smollm2_dir()), dtype]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    weights, kept, peak = (int(field) for field in out.split())
    spare = 48 << 20
    assert least < weights < most
    assert kept < weights + spare
    assert peak < weights + spare
