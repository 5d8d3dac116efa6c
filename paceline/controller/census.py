"""What has changed since the last pass: nodes, runners, tasks. Everything else is decided only
when there is no such news left."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.controller.actions import Action, Draining, NodeMoved, RunnerGone, RunnerShown
from paceline.controller.facts import NodeSeen
from paceline.controller.nodes import NodeState, why_gone
from paceline.controller.passing import Pass
from paceline.controller.tasks import task_news
from paceline.types.facts import ProcessExit
from paceline.types.ids import NodeName, RunnerId

_NODE_SENTENCES = {
    NodeState.READY: "{name} is ready",
    NodeState.SUSPECT: "{name} is suspect: it is or was silent for {silence:.1f} s; "
    "nothing new is placed there",
    NodeState.UNREACHABLE: "{name} is unreachable: silent for {silence:.1f} s, but not all "
    "of its runners are; nothing moves",
    NodeState.LOST: "{name} is lost: silent for {silence:.1f} s, and nobody vouches for it",
}


def news(p: Pass) -> Iterator[Action]:
    for name, state in p.nodes.items():
        if p.book.nodes.get(name) != state:
            yield NodeMoved(sentence=_node_sentence(p, name, state), node=name, state=state)
    if (now := frozenset(p.drained)) != p.book.draining:
        yield Draining(sentence=_draining_sentence(p.book.draining, now), nodes=now)
    yield from _runner_news(p)
    yield from task_news(p)


def _node_sentence(p: Pass, name: NodeName, state: NodeState) -> str:
    seen = p.facts.nodes[name]
    silence = p.facts.silence_s(seen.heard_at, p.now)
    return _NODE_SENTENCES[state].format(name=name, silence=silence)


def _draining_sentence(before: frozenset[NodeName], now: frozenset[NodeName]) -> str:
    said = [f"{name} is to be empty: its seats go to other nodes" for name in sorted(now - before)]
    said += [f"{name} may be given seats again" for name in sorted(before - now)]
    return "; ".join(said)


def _runner_news(p: Pass) -> Iterator[Action]:
    for runner in p.book.runners.values():
        node = p.facts.nodes.get(runner.node)
        if node is None:
            continue
        sentence = why_gone(node, p.nodes[runner.node], runner)
        if sentence is not None:
            if runner.kill and runner.kill not in sentence:
                sentence = f"{sentence} (it was to end: {runner.kill})"
            ended = _exit_of(node, runner.id)
            yield RunnerGone(
                sentence=sentence,
                runner=runner.id,
                code=ended.code if ended else None,
                last_words=ended.log_tail if ended else (),
            )
        elif not runner.in_inventory and _is_listed(node, runner.id):
            yield RunnerShown(sentence=f"{runner.id} runs on {runner.node}", runner=runner.id)


def _exit_of(node: NodeSeen, runner: RunnerId) -> ProcessExit | None:
    return next((ended for ended in node.facts.exits if ended.runner_id == runner), None)


def _is_listed(node: NodeSeen, runner: RunnerId) -> bool:
    return any(process.runner_id == runner for process in node.facts.processes)
