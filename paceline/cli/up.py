"""`paceline up` and `join`: this machine's part of a cluster in the foreground, telling what
happens in it; `down` and `leave`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from getpass import getpass

from msgspec.structs import replace

from paceline.cli import show
from paceline.cli.api import Api
from paceline.cli.models import ensure_model
from paceline.cluster.local.options import UpOptions
from paceline.cluster.local.up import run_local
from paceline.cluster.parent.parent import LEAVE_SIGNAL, LEAVE_WITHIN_S, OnStatus
from paceline.cluster.parent.status import UpStatus
from paceline.cluster.ray.options import HeadOptions, JoinOptions
from paceline.cluster.ray.up import run_head, run_joined
from paceline.process.exposure import ApiKey, is_loopback, kept_api_key
from paceline.process.home import Home
from paceline.process.logs import configure
from paceline.transport.membership import Membership
from paceline.types.errors import DeadlineExceeded, InvalidRequest, PacelineError
from paceline.types.join import Welcome

RETRY_S = 1.0
DOWN_S = 10.0
TOKEN_VARIABLE = "PACELINE_TOKEN"
"""Only the owner of a process reads its environment; a command line is everybody's."""

QUIET_KINDS = frozenset({"task_ended", "order"})
"""Kinds of event that `paceline events` shows and a person watching `up` need not see."""


def up(options: UpOptions, models: Sequence[str]) -> int:
    """Runs until Ctrl-C, SIGTERM or `paceline down`; returns the exit code."""
    home = _prepared(options.home, models)
    options = replace(options, api_key=_api_key(home, options.host, options.api_key))
    return run_local(options, _watcher(home, models))


def up_head(options: HeadOptions, models: Sequence[str]) -> int:
    """The same for the first of many machines."""
    home = _prepared(options.home, models)
    options = replace(options, api_key=_api_key(home, options.host, options.api_key))

    def on_token(address: str, token: str, is_new: bool) -> None:
        if is_new:
            show.out.print("Other machines join with (`paceline token` shows the token again):")
            line = f"{TOKEN_VARIABLE}={token} paceline join {address}"
        else:
            show.out.print("Other machines join with the token that `paceline token` shows:")
            line = f"paceline join {address} --token -"
        # In one line whatever the width of the terminal, to be copied whole.
        show.out.print(f"  {line}", soft_wrap=True, markup=False)

    return run_head(options, on_token, _watcher(home, models))


def join(options: JoinOptions) -> int:
    """The same for any other machine."""
    home = _prepared(options.home, ())

    def on_welcome(welcome: Welcome) -> None:
        show.line(f"{options.node} joins {welcome.cluster_id} at {options.head}")

    return run_joined(options, on_welcome, _watcher(home, ()))


def read_token(given: str | None) -> str | None:
    """The token itself where `-` asks for it; our children are not told it."""
    os.environ.pop(TOKEN_VARIABLE, None)
    if given != "-":
        return given
    return getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()


def token(home: Home) -> str:
    """With which others join the cluster of this home. Raises InvalidRequest elsewhere than on the
    head, Unavailable where there is no cluster."""
    membership = Membership.of(home)
    if membership.head is None:
        raise InvalidRequest("the head of this cluster is elsewhere; `paceline token` works there")
    return membership.token


def _prepared(path: str, models: Sequence[str]) -> Home:
    home = Home(path)
    home.create()
    # Restarts are told by the parent's status already.
    configure("up", "up", home.log_file("up", "up"), stderr_level=logging.CRITICAL)
    for model in models:
        ensure_model(model, home)
    return home


def _watcher(home: Home, models: Sequence[str]) -> OnStatus:
    """Tells a person what the parent says of itself, and then what the controller decides."""
    told = threading.Event()

    def on_status(status: UpStatus) -> None:
        if status.ready and not told.is_set():
            told.set()
            show.out.print(f"[bold]Paceline answers at {status.url}[/bold]  (Ctrl-C ends it)")
            info = home.read_run()
            api = Api(status.url, info.api_key if info else None)
            threading.Thread(target=_attend, args=(api, models), daemon=True).start()
        for sibling in status.siblings:
            if sibling.pid is None and sibling.last_end and not status.stopping:
                show.out.print(f"{sibling.name} {sibling.last_end}; starting it again")
        if status.stopping and told.is_set():
            told.clear()
            show.out.print("stopping …")

    return on_status


def _api_key(home: Home, host: str, given: str | None) -> str | None:
    """What clients are asked for: beyond loopback always something."""
    if given is not None or is_loopback(host):
        return given
    return _made_known(kept_api_key(home), home)


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
    """End what runs in this home; its pid, or None if there was nothing.

    Raises DeadlineExceeded if it is still there after ten seconds.
    """
    return _end(home, signal.SIGTERM, DOWN_S)


def leave(home: Home) -> int | None:
    """Have this machine's seats given to others, end what runs here and forget the cluster; the
    pid as `down` gives it. Raises InvalidRequest on the head, Unavailable, naming who it is, where
    somebody runs here again, and as `down`."""
    if home.membership.exists() and Membership.of(home).head is not None:
        raise InvalidRequest("this machine is the head of its cluster; `paceline down` ends it")
    pid = _end(home, LEAVE_SIGNAL, LEAVE_WITHIN_S + DOWN_S)
    with home.lock():
        home.membership.unlink(missing_ok=True)
    return pid


def _end(home: Home, number: signal.Signals, within_s: float) -> int | None:
    """The lock says who runs, from the start on; `run.json` comes late and may outlive its pid."""
    holder = home.holder()
    if holder is None:
        return None
    with suppress(ProcessLookupError):
        os.kill(holder.pid, number)
    deadline = time.monotonic() + within_s
    while home.holder() == holder:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {holder.pid} has not ended within {within_s:g} s")
        time.sleep(0.05)
    return holder.pid
