"""`python -m paceline.engine`: what this machine computes with, as one JSON object."""

from __future__ import annotations

import json

import torch

from paceline.engine.kernels import load


def main() -> None:
    kernels = load()
    report = {
        "torch": torch.__version__,
        "kernels": kernels.name if kernels else None,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
