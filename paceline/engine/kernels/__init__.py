"""The native CPU kernels: a small C library, used where it could be built."""

from paceline.engine.kernels.calls import Kernels
from paceline.engine.kernels.library import load

__all__ = ["Kernels", "load"]
