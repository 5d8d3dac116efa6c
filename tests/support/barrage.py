"""A runner under fire, and the ledger that its controller would keep.

Every task that can be told by its id is followed to its end; what the runner does not show is sent
again, as a controller does. A runner that obeyed a stop is replaced by another one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from paceline.types.ids import Epoch, fresh_id
from paceline.types.model import Shard
from paceline.types.states import RunnerState, TaskKind, TaskState
from paceline.types.tasks import TaskStatus
from tests.support import shots
from tests.support.runners import Runners
from tests.support.shots import (
    Broken,
    Cut,
    Fields,
    Knock,
    LineOrder,
    Listen,
    Next,
    Raw,
    Repeat,
    Shot,
    Stop,
    pack,
)  # fmt: skip

END_S = 30.0
"""How long all tasks of a runner may take to end."""
AGAIN_S = 0.25
READY_STEPS = 8
LOG_CHECKED = 300
"""Newest ended tasks of a process whose lines must be in its log: older ones may be rotated out."""


_KINDS = frozenset(TaskKind)


class Entry:
    """A task in the ledger."""

    def __init__(self, kind: str, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload
        self.end: TaskStatus | None = None
        self.sent_at = 0.0


class Barrage:
    """Fires shots at the runner of rank 0. `tally` counts tasks by `kind/end`, `messages` all that
    was sent."""

    def __init__(self, runners: Runners) -> None:
        self.runners = runners
        self.messages = 0
        self.tasks = 0
        self.tally: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.stops = 0
        self._ledger: dict[str, Entry] = {}
        self._ended: Counter[str] = Counter()
        """By the living process, as its own counts have it."""
        self._stop_sent = False
        runners.until(lambda: runners.seen(0) is not None, "the runner's first beat")

    # --- firing ----------------------------------------------------------------------------------

    def fire(self, shot: Shot) -> None:
        match shot:
            case Knock(kind=kind, epoch=epoch, deadline_s=deadline_s, fields=fields):
                self._knock(kind, self._epoch(epoch), deadline_s, fields)
            case Next():
                self._lead_on()
            case Repeat(back=back, twin=twin) if self._ledger:
                self._repeat(back, twin)
            case Broken(kind=kind, change=change, lost=lost):
                self._break(kind, change, lost)
            case Raw(payload):
                self._send(payload)
            case Cut(at=at, flip=flip):
                self._cut(at, flip)
            case LineOrder(epoch=epoch, fields=fields):
                self._line(self._epoch(epoch), fields)
            case Listen(seconds):
                self.listen(seconds)
            case Stop():
                self._stop_sent = True
                self._knock("stop", self._epoch("next"), 1.0, {})
                self.listen(0.02)
        self._attend()

    def lead_to_ready(self) -> None:
        """As far as a few orders lead: shots one after the other leave no time to become it."""
        for _ in range(READY_STEPS):
            facts = self.runners.seen(0)
            if facts is not None and facts.state is RunnerState.READY:
                self.states[RunnerState.READY] += 1
                return
            self._lead_on()
            self.listen(0.1)
            self._attend()

    def _epoch(self, choice: str) -> Epoch:
        facts = self.runners.seen(0)
        newest = facts.epoch if facts and facts.epoch else Epoch(1, 1)
        return shots.epoch_of(choice, newest)

    def _knock(self, kind: str, epoch: Epoch, deadline_s: float, fields: Fields) -> None:
        task = self._task(kind, epoch, deadline_s, fields)
        self._assign(task["task_id"], kind, task)

    def _task(self, kind: str, epoch: Epoch, deadline_s: float, fields: Fields) -> Fields:
        named = {"type": kind, "task_id": fresh_id("t"), "epoch": epoch, "deadline_s": deadline_s}
        return fields | named

    def _assign(self, task_id: str, kind: str, task: Fields) -> None:
        facts = self.runners.seen(0)
        if task.get("type") == "stop" and (facts is None or facts.epoch is None):
            self._stop_sent = True  # to whom no epoch is known, none is stale
        self._ledger[task_id] = Entry(kind, pack({"type": "assign", "task": task}))
        self._post(self._ledger[task_id])
        self.tasks += 1

    def _lead_on(self) -> None:
        """What a good controller would send now."""
        self.listen(0.005)
        facts = self.runners.seen(0)
        state = facts.state if facts else RunnerState.IDLE
        self.states[state] += 1
        shard = Shard(start=0, stop=shots.LAYERS, layers=shots.LAYERS)
        load = {
            "seat": shots.SEAT, "model": "tiny", "shard": shard, "dtype": "float32",
            "kv_pages": shots.PAGES, "memory_bytes": 2**20,
        }  # fmt: skip
        connect = {"seat": shots.SEAT, "world_size": 1, "nodes": ["n0"]}
        again = {"seat": ("i-other", 0), "world_size": 1, "nodes": ["n0"]}
        choices: dict[RunnerState, tuple[str, str, Fields]] = {
            RunnerState.IDLE: ("load", "same", load),
            RunnerState.FAILED: ("load", "same", load),
            RunnerState.LOADING: ("connect", "next", connect),
            RunnerState.FETCHING: ("load", "same", load),
            RunnerState.LOADED: ("connect", "next", connect),
            RunnerState.CONNECTING: ("warm_up", "same", {}),
            RunnerState.WARMING: ("warm_up", "same", {}),
            RunnerState.READY: ("connect", "next", again),
        }
        kind, epoch, fields = choices.get(state, ("load", "next", load))
        self._knock(kind, self._epoch(epoch), 2.0, fields)
        if state is RunnerState.DRAINING:  # a line of one has nobody to lose
            self.fire(Stop())

    def _repeat(self, back: int, twin: bool) -> None:
        ids = list(self._ledger)
        task_id = ids[-1 - back % len(ids)]
        entry = self._ledger[task_id]
        self.tally["repeated"] += 1
        self.tasks += 1
        if twin:
            other = self._task("drain", self._epoch("next"), 0.3, {}) | {"task_id": task_id}
            self._send(pack({"type": "assign", "task": other}))
        else:
            self._post(entry)

    def _break(self, kind: str, change: Fields, lost: str) -> None:
        task = self._task(kind, self._epoch("stale"), 0.3, {}) | change
        task.pop(lost, None)
        self._assign(task["task_id"], "garbage", task)

    def _cut(self, at: float, flip: int) -> None:
        """Nobody can say which task this is, or whether it is one still."""
        task = self._task("connect", self._epoch("stale"), 0.3, {"seat": shots.SEAT, "nodes": []})
        whole = bytearray(pack({"type": "assign", "task": task}))
        place = min(int(at * len(whole)), len(whole) - 1)
        if flip:
            whole[place] ^= flip
        else:
            del whole[place:]
        self._send(bytes(whole))

    def _line(self, epoch: Epoch, fields: Fields) -> None:
        offers = [offer | {"epoch": epoch} for offer in fields["offers"]]
        self._send(pack({"type": "line", "epoch": epoch, **fields, "offers": offers}))

    def _post(self, entry: Entry) -> None:
        entry.sent_at = time.monotonic()
        self._send(entry.payload)

    def _send(self, payload: bytes) -> None:
        deadline = time.monotonic() + END_S
        self.messages += 1
        while not self.runners.post(0, payload) and self.runners.processes[0].poll() is None:
            assert time.monotonic() < deadline, f"it takes no messages: {self._last_words()}"
            self.listen(0.01)

    # --- listening -------------------------------------------------------------------------------

    def listen(self, seconds: float) -> None:
        """Take what the runner says, and hold it to what it has said before."""
        self.runners.look(seconds)
        facts = self.runners.seen(0)
        for status in facts.tasks if facts else ():
            entry = self._ledger.get(status.task_id)
            if entry is not None and status.state.is_terminal:
                ended = entry.end or status
                assert ended.state is status.state, f"{ended} became {status}"
                entry.end = ended

    def settle(self) -> None:
        """Until every task has ended."""
        deadline = time.monotonic() + END_S
        freed = 0.0
        while waiting := [entry for entry in self._ledger.values() if entry.end is None]:
            now = time.monotonic()
            assert now < deadline, f"without an end: {[entry.payload for entry in waiting]}"
            for entry in waiting:
                if now - entry.sent_at > AGAIN_S:
                    self._post(entry)
            facts = self.runners.seen(0)
            if facts and facts.state is RunnerState.CONNECTING and now - freed > AGAIN_S:
                # Whatever waits for a neighbour gives way to a newer task.
                other = {"seat": ("i-other", 0), "world_size": 1, "nodes": []}
                self._knock("connect", self._epoch("next"), 0.3, other)
                freed = now
            self.listen(0.01)
            self._attend()
        self._ask_again()
        self._close_ledger("")
        facts = self.runners.seen(0)
        counts = Counter(facts.task_counts if facts else {})
        assert self._ended <= counts, f"{self._ended - counts} are missing in {counts}"

    def _ask_again(self) -> None:
        """The oldest task, long out of what is reported, is answered with its end once more."""
        if not self._ledger:
            return
        task_id, entry = next(iter(self._ledger.items()))
        self._post(entry)
        deadline = time.monotonic() + END_S
        process = self.runners.processes[0]
        while not self.runners.status(0, task_id) and process.poll() is None:
            assert time.monotonic() < deadline, f"{entry.end} is forgotten"
            self.listen(0.01)

    def _attend(self) -> None:
        """A process that is gone must have obeyed a stop; it gets a successor."""
        process = self.runners.processes[0]
        if process.poll() is None:
            return
        self.listen(0.05)
        obeyed = self._stop_sent and process.returncode == 0 and self._log_says_stopped()
        assert obeyed, f"the runner ended with {process.returncode}: {self._last_words()}"
        self.stops += 1
        self._close_ledger("ended with its runner")
        self._ended.clear()
        self._stop_sent = False
        self.runners.replace(0)
        self.runners.until(lambda: self.runners.seen(0) is not None, "the next runner's first beat")

    def _close_ledger(self, otherwise: str) -> None:
        ends = {task_id: entry.end for task_id, entry in self._ledger.items() if entry.end}
        bugs = [line for line in self._lines() if line["event"] == "turn_failed"]
        assert not bugs, bugs[0]
        lines = self._end_lines()
        for task_id, end in list(ends.items())[-LOG_CHECKED:]:
            (line,) = lines.get(task_id, [None])
            assert line is not None, f"no line in the log for {end}"
            assert line["state"] == end.state, (line, end)
            assert end.state is TaskState.COMPLETE or (
                line["level"] == "warning" and line["reason"]
            )
        self._ended.update(f"{end.kind}/{end.state}" for end in ends.values() if end.kind in _KINDS)
        for entry in self._ledger.values():
            self.tally[f"{entry.kind}/{entry.end.state if entry.end else otherwise}"] += 1
        self._ledger.clear()

    # --- the runner's log ------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.runners.home.log_file("runner", self.runners.names[0])

    def _lines(self) -> list[dict[str, Any]]:
        older = self._log.with_name(f"{self._log.name}.1")
        texts = [path.read_text() for path in (older, self._log) if path.exists()]
        return [json.loads(line) for line in "".join(texts).splitlines()]

    def _end_lines(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self._lines():
            if line["event"] == "task_ended":
                found.setdefault(line["task"], []).append(line)
        return found

    def _log_says_stopped(self) -> bool:
        ends = [line for lines in self._end_lines().values() for line in lines]
        return any(line["kind"] == "stop" and line["state"] == "complete" for line in ends)

    def _last_words(self) -> str:
        said = self.runners.said(0).read_text(errors="replace").splitlines()
        return "\n".join([*said[-20:], *(json.dumps(line) for line in self._lines()[-5:])])
