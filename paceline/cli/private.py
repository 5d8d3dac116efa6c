"""A cluster for one command: in a home of its own, over the user's models, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paceline.cli.api import Api
from paceline.cluster.local.detached import start_detached
from paceline.cluster.local.options import UpOptions
from paceline.process.home import Home

START_S = 30.0


@contextmanager
def private_cluster(home: Home, nodes: int, node_memory: int | None = None) -> Iterator[Api]:
    """Its processes end with the block, and with this process however it ends."""
    home.models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
        Path(directory, "models").symlink_to(home.models)
        options = UpOptions(home=directory, nodes=nodes, node_memory=node_memory, port=0)
        with start_detached(options) as cluster:
            yield Api(cluster.wait_ready(START_S).url)
