"""What the planner predicts of a rank's memory, against real runners at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.checkpoint.facts import model_facts
from paceline.types.stream import SamplingParams, StreamRecord
from tests.support.models import smollm2_dir
from tests.support.runners import Runners, place

pytestmark = pytest.mark.real

STREAMS, PROMPT, TOKENS = 8, 480, 16
KV_TOKENS = STREAMS * 512
TOLERANCE, SLACK_BYTES = 0.15, 100 * 10**6


def streams() -> list[StreamRecord]:
    """As many, and as long, as the pages hold."""
    params = SamplingParams(max_tokens=TOKENS, seed=1, temperature=0.0, ignore_eos=True)
    return [
        StreamRecord(
            stream_id=f"s-{number}",
            attempt=0,
            prompt_ids=tuple(range(number + 10, number + 10 + PROMPT)),
            params=params,
        )
        for number in range(STREAMS)
    ]


@pytest.mark.parametrize(
    ("ranks", "dtype"), [(1, "float32"), (2, "float32"), (2, "int8"), (2, "int4")]
)
def test_a_rank_takes_what_was_predicted(ranks: int, dtype: str, tmp_path: Path) -> None:
    directory = smollm2_dir()
    facts = model_facts(directory, directory.name)
    home = tmp_path / "h"
    home.mkdir()
    (home / "models").symlink_to(directory.parent)
    placement = place(facts, ranks, kv_tokens=KV_TOKENS, dtype=dtype)
    with Runners(home, directory.name, placement) as runners:
        runners.load_all()
        runners.join_line()
        runners.generate(streams())
        runners.look(1.0)
        for rank, seat in enumerate(placement.seats):
            measured = runners.facts[f"r-{rank}"].measured_bytes
            assert measured is not None
            print(f"{dtype} rank {rank} of {ranks}: {measured / 1e6:.0f} MB, "
                  f"predicted {seat.memory_bytes / 1e6:.0f} MB")  # fmt: skip
            off = abs(seat.memory_bytes - measured)
            assert off <= max(TOLERANCE * measured, SLACK_BYTES)
