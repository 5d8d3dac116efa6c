"""`paceline up`: a local cluster in the foreground, telling what happens in it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence

import psutil
from msgspec.structs import replace

from paceline.cli import show
from paceline.cli.api import Api
from paceline.cli.models import ensure_model
from paceline.cluster.local.options import UpOptions, UpStatus
from paceline.cluster.local.parent import run_parent
from paceline.process.exposure import ApiKey, is_loopback, kept_api_key
from paceline.process.home import Home
from paceline.process.logs import configure
from paceline.types.errors import DeadlineExceeded, PacelineError

RETRY_S = 1.0
DOWN_S = 10.0

QUIET_KINDS = frozenset({"task_ended", "order"})
"""Kinds of event that `paceline events` shows and a person watching `up` need not see."""


def up(options: UpOptions, models: Sequence[str], api_key: str | None) -> int:
    """Runs until Ctrl-C, SIGTERM or `paceline down`; returns the exit code."""
    home = Home(options.home)
    home.create()
    if api_key is None and not is_loopback(options.host):
        api_key = _made_known(kept_api_key(home), home)
        options = replace(options, api_key=api_key)
    # Restarts are told by `on_status` already.
    configure("up", "up", home.log_file("up", "up"), stderr_level=logging.CRITICAL)
    for model in models:
        ensure_model(model, home)
    told = threading.Event()

    def on_status(status: UpStatus) -> None:
        if status.ready and not told.is_set():
            told.set()
            show.out.print(f"[bold]Paceline answers at {status.url}[/bold]  (Ctrl-C ends it)")
            api = Api(status.url, api_key)
            threading.Thread(target=_attend, args=(api, models), daemon=True).start()
        for sibling in status.siblings:
            if sibling.pid is None and sibling.last_end and not status.stopping:
                show.out.print(f"{sibling.name} {sibling.last_end}; starting it again")
        if status.stopping and told.is_set():
            told.clear()
            show.out.print("stopping …")

    return run_parent(options, on_status)


def _made_known(key: ApiKey, home: Home) -> str:
    """Said once, when it is made; later only where it lies."""
    if key.is_new:
        show.out.print(f"API key, shown this once and kept in {home.api_key}:", markup=False)
        show.out.print(key.text, markup=False, highlight=False, soft_wrap=True)
    else:
        show.out.print(f"clients need the API key in {home.api_key}", markup=False)
    return key.text


def _attend(api: Api, models: Sequence[str]) -> None:
    """Ask for the models that were named, then show what the controller decides."""
    for model in models:
        _want(api, model)
    seen = 0
    while True:
        try:
            for event in api.events(f"/api/events?since={seen}"):
                seen = max(seen, event["number"])
                if event["kind"] not in QUIET_KINDS:
                    show.line(show.event_line(event))
        except PacelineError:
            pass  # the gateway is being started again; it will be back
        time.sleep(RETRY_S)


def _want(api: Api, model: str) -> None:
    while True:
        try:
            if not any(i["model"] == model for i in api.get("/api/instances")):
                api.post("/api/instances", {"model": model})
            return
        except PacelineError as error:
            if error.code not in ("unavailable", "deadline_exceeded"):
                show.err.print(f"{model}: {error}", markup=False)
                return
        time.sleep(RETRY_S)


def down(home: Home) -> int | None:
    """End the cluster that runs in this home; its pid, or None if there was none.

    Raises DeadlineExceeded if it is still there after ten seconds.
    """
    info = home.read_run()
    if info is None or not _lives(info.pid):
        return None
    os.kill(info.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    while _lives(info.pid):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {info.pid} has not ended within {DOWN_S:g} s")
        time.sleep(0.05)
    return info.pid


def _lives(pid: int) -> bool:
    """A process that has ended and that its parent has not noticed yet does not live."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
