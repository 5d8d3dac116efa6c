"""int8, with its gate, and int4 against float32 on the fixed text."""

from __future__ import annotations

import msgspec

from benchmarks.contenders import default_model
from benchmarks.parts.works import Plan
from benchmarks.quality import MOST_KL, MOST_PERPLEXITY, Quality, compare
from benchmarks.report import Result, Table
from benchmarks.text import Text
from paceline.checkpoint import DEFAULT_MODEL

GATED = "int8"
DTYPES = (GATED, "int4")


def measure(_: Plan) -> Result:
    checkpoint = default_model().checkpoint
    ids = Text(checkpoint).ids
    found = {dtype: compare(checkpoint, ids, dtype) for dtype in DTYPES}
    table = Table(
        title=f"{DEFAULT_MODEL}, quantised, against float32",
        columns=(
            "dtype", "tokens", "perplexity float32", "quantised", "more", "mean KL",
            "same first choice", "gate",
        ),
        rows=tuple(_row(dtype, one) for dtype, one in found.items()),
        notes=(
            f"The gate, for what users get unasked: perplexity at most "
            f"{100 * (MOST_PERPLEXITY - 1):+.0f} %, mean KL at most {MOST_KL}.",
        ),
    )  # fmt: skip
    return Result(tables=(table,), data=msgspec.to_builtins(found))


def _row(dtype: str, found: Quality) -> tuple[str, ...]:
    gate = "passed" if found.passes else "**failed**"
    return (
        dtype,
        str(found.tokens),
        f"{found.baseline:.3f}",
        f"{found.perplexity:.3f}",
        f"{100 * (found.ratio - 1):+.2f} %",
        f"{found.kl:.4f}",
        f"{100 * found.agreement:.1f} %",
        gate if dtype == GATED else "–",
    )
