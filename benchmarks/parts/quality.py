"""int8 against float32 on the fixed text: the gate."""

from __future__ import annotations

import msgspec

from benchmarks.contenders import default_model
from benchmarks.parts.works import Plan
from benchmarks.quality import MOST_KL, MOST_PERPLEXITY, compare
from benchmarks.report import Result, Table
from benchmarks.text import Text
from paceline.checkpoint import DEFAULT_MODEL


def measure(_: Plan) -> Result:
    checkpoint = default_model().checkpoint
    found = compare(checkpoint, Text(checkpoint).ids)
    table = Table(
        title="int8 against float32",
        columns=(
            "model", "tokens", "perplexity float32", "int8", "more", "mean KL", "same first choice",
            "gate",
        ),
        rows=(
            (
                DEFAULT_MODEL,
                str(found.tokens),
                f"{found.baseline:.3f}",
                f"{found.perplexity:.3f}",
                f"{100 * (found.ratio - 1):+.2f} %",
                f"{found.kl:.4f}",
                f"{100 * found.agreement:.1f} %",
                "passed" if found.passes else "**failed**",
            ),
        ),
        notes=(
            f"The gate: perplexity at most {100 * (MOST_PERPLEXITY - 1):+.0f} %, "
            f"mean KL at most {MOST_KL}.",
        ),
    )  # fmt: skip
    return Result(tables=(table,), data=msgspec.to_builtins(found))
