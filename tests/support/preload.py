"""A wall clock that is wrong, for the processes of one machine: clocks of the kernel that count
seconds since 1970 are the same in all namespaces."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += OFF_S;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec found;
    int failed = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *into) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (into)
        *into = found.tv_sec;
    return found.tv_sec;
}
"""


def wrong_clock(directory: Path, off_s: int) -> dict[str, str]:
    """The environment in which processes see a wall clock that is off by so much. Skips the test
    where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a wrong clock with")
    library, source = directory / "clock.so", directory / "clock.c"
    source.write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DOFF_S=({off_s})", "-o", library, source]
    subprocess.run(command, check=True, capture_output=True)
    return {"LD_PRELOAD": str(library)}
