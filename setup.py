"""Builds the C kernels where a compiler is at hand; everything else stands in pyproject.toml."""

from __future__ import annotations

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS_VERSION = "2"
SOURCE_DIRECTORY = Path("paceline/engine/kernels/csrc")

# No flag may depend on the machine: results must be the same wherever the library was built.
COMPILE_FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-pthread",
]
LINK_FLAGS = ["-pthread", "-lm"]


class BuildKernels(build_ext):
    """Leaves the kernels out, and says so, where they cannot be compiled."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:  # whatever a compiler or its absence may raise
            self.warn(
                f"the C kernels are left out ({error}). Paceline works without them, on torch "
                "alone; for full speed install gcc or clang and install Paceline again."
            )

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """It is a plain library, called through ctypes: no PyInit function."""
        return []


def build_name() -> str:
    """Names what decides over the results' bits: version, sources and flags."""
    digest = hashlib.sha256(" ".join(COMPILE_FLAGS).encode())
    for path in sorted(SOURCE_DIRECTORY.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"kernels-{KERNELS_VERSION}-{digest.hexdigest()[:12]}"


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            "paceline.engine.kernels._c",
            sources=sorted(str(path) for path in SOURCE_DIRECTORY.glob("*.c")),
            depends=sorted(str(path) for path in SOURCE_DIRECTORY.glob("*.h")),
            define_macros=[("PACELINE_KERNELS_BUILD", f'"{build_name()}"')],
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=LINK_FLAGS,
            optional=True,
        )
    ],
)
