"""A wall clock that is wrong, for the processes of one machine: to the kernel, what time of day it
is is the same in all namespaces."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long (*real_syscall)(long, ...);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_sem)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void find(void) {
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    /* The oldest of its versions, which dlsym finds, is another structure. */
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_cond)
        real_cond = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_sem = dlsym(RTLD_NEXT, "sem_timedwait");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_syscall)
        find();
    int failed = (int)real_syscall(SYS_clock_gettime, clock, now);
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

/* Deadlines that were made from this clock are waited for by the kernel's. Those of a monotonic
   clock are smaller. */
static struct timespec ours(const struct timespec *deadline) {
    struct timespec found = *deadline;
    if (found.tv_sec > 1000000000)
        found.tv_sec -= OFF_S;
    return found;
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m,
                           const struct timespec *restrict deadline) {
    struct timespec found = ours(deadline);
    return real_cond(c, m, &found);
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict deadline) {
    struct timespec found = ours(deadline);
    return real_sem(sem, &found);
}

long syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (!real_syscall)
        find();
    struct timespec found;
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        found = ours((const struct timespec *)a[3]);
        a[3] = (long)&found;
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
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
    subprocess.run([*command, "-ldl"], check=True, capture_output=True)
    return {"LD_PRELOAD": str(library)}
