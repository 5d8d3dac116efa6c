"""Finds the C library, chooses the instruction set, and tries it before anyone relies on it."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path

import structlog
import torch

from paceline.engine.kernels.abi import ISA_NUMBERS, declare
from paceline.engine.kernels.calls import MOST_THREADS, Kernels
from paceline.engine.kernels.selftest import wrong_kernels
from paceline.engine.kernels.tuning import tune
from paceline.types.errors import EngineError

ISA_VARIABLE = "PACELINE_KERNEL_ISA"

_FASTEST_FIRST = ("amx", "avx512vnni", "avxvnni", "avx512", "avx2", "portable")

_log = structlog.get_logger(__name__)


def library_path(directory: Path) -> Path | None:
    """The built library in a directory, if there is one."""
    names = (directory / f"_c{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def _choose_isa(library: ctypes.CDLL, wanted: str | None) -> str:
    present = [isa for isa in _FASTEST_FIRST if library.paceline_has_isa(ISA_NUMBERS[isa])]
    if wanted is None:
        return present[0]
    if wanted not in present:
        lacks = "this CPU lacks it" if wanted in ISA_NUMBERS else "there is no such one"
        raise EngineError(
            f"{ISA_VARIABLE} asks for {wanted!r}, but {lacks}; "
            f"unset it or choose one of: {', '.join(present)}"
        )
    return wanted


def open_library(path: Path, isa: str | None = None) -> Kernels:
    """The kernels in a library file, for the fastest instruction set of this CPU or the given one.

    Raises EngineError if the CPU lacks the given one, OSError or AttributeError if the file is not
    a library of kernels.
    """
    library = ctypes.CDLL(str(path))
    declare(library)
    return Kernels(library, _choose_isa(library, isa))


@functools.cache
def _load(directory: Path, isa: str | None) -> Kernels | None:
    path = library_path(directory)
    if path is None:
        _log.warning("kernels_left_out", reason="the C library was not built at install")
        return None
    try:
        kernels = open_library(path, isa)
    except (OSError, AttributeError) as error:
        _log.warning("kernels_left_out", reason=f"the C library cannot be loaded: {error}")
        return None
    wrong = wrong_kernels(kernels)
    if wrong:
        reason = f"the self-test of {kernels.name} found wrong results: {', '.join(wrong)}"
        _log.warning("kernels_left_out", reason=reason)
        return None
    kernels.set_threads(min(torch.get_num_threads(), MOST_THREADS))
    tune(kernels)
    return kernels


def load(directory: Path = Path(__file__).parent) -> Kernels | None:
    """The kernels for this CPU, or None, with the reason logged, where torch has to do without.

    PACELINE_KERNEL_ISA (one of ISA_NUMBERS) forces an instruction set; EngineError if the CPU lacks
    it. Loaded once; starts with as many threads as torch uses.
    """
    return _load(directory, os.environ.get(ISA_VARIABLE) or None)
