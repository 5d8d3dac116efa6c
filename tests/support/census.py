"""What a cluster holds of the machine: descriptors, threads, processes, files, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from tests.support.cluster import LocalCluster

MIB = 2**20
SETTLE_S = 40.0
"""Sockets that the dead have left are swept every ten seconds, five after they have settled."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """By one long-lived process."""

    descriptors: int
    threads: int
    resident_bytes: int


class Census(msgspec.Struct, frozen=True, kw_only=True):
    by_role: dict[str, Held]
    processes: int
    sockets: int
    """Files in the runtime directory."""
    files: int
    """In the home, models and logs left out."""
    logs: int

    def more_than(self, before: Census) -> list[str]:
        """Sentences about whatever there is more of, memory left out."""
        found = [
            f"{role} has {getattr(held, what)} {what}, and had {getattr(was, what)}"
            for role, held in self.by_role.items()
            for was in [before.by_role[role]]
            for what in ("descriptors", "threads")
            if getattr(held, what) > getattr(was, what)
        ]
        for what in ("processes", "sockets", "files"):
            now, was_all = getattr(self, what), getattr(before, what)
            if now > was_all:
                found.append(f"there are {now} {what}, and were {was_all}")
        return found

    def growth(self, before: Census) -> dict[str, float]:
        """MiB of resident memory more than before, by role."""
        return {
            role: round((held.resident_bytes - before.by_role[role].resident_bytes) / MIB, 1)
            for role, held in self.by_role.items()
        }


def long_lived(cluster: LocalCluster) -> dict[str, psutil.Process]:
    """Those that outlive every instance, by role."""
    named = {"up": cluster.family()[0]}
    words = {"controller": "paceline.controller", "gateway": "paceline.gateway"}
    for node in cluster.api.get("/api/nodes"):
        words[node["name"]] = f"--node {node['name']} --memory"
    for role, said in words.items():
        (named[role],) = cluster.processes(said)
    return named


def take_census(cluster: LocalCluster) -> Census:
    family = cluster.family()
    return Census(
        by_role={role: _held(process) for role, process in long_lived(cluster).items()},
        processes=len(family),
        sockets=_count(cluster.home.runtime()),
        files=_count(cluster.home.path, "models", "logs"),
        logs=_count(cluster.home.logs),
    )


def settled(cluster: LocalCluster, before: Census) -> Census:
    """The census once nothing is more than before, or as it is after a while."""
    deadline = time.monotonic() + SETTLE_S
    while (now := take_census(cluster)).more_than(before) and time.monotonic() < deadline:
        time.sleep(0.25)
    return now


def quiet(cluster: LocalCluster, is_quiet: Callable[[], bool]) -> Census:
    cluster.wait("the cluster to be quiet", is_quiet)
    return take_census(cluster)


def _held(process: psutil.Process) -> Held:
    with process.oneshot():
        return Held(
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            resident_bytes=process.memory_info().rss,
        )


def _count(directory: Path, *left_out: str) -> int:
    count = 0
    for place, inner, names in os.walk(directory):
        if Path(place) == directory:
            for name in left_out:
                with suppress(ValueError):
                    inner.remove(name)
        count += len(names)
    return count
