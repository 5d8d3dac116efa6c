"""What has changed since the last pass: nodes, runners, tasks. Everything else is decided only
when there is no such news left."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.controller.actions import Action, NodeMoved, RunnerGone, RunnerShown
from paceline.controller.book import RunnerBook
from paceline.controller.nodes import NodeState, why_gone
from paceline.controller.passing import Pass
from paceline.controller.tasks import task_news
from paceline.types.facts import ProcessExit
from paceline.types.ids import NodeName

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
    yield from _runner_news(p)
    yield from task_news(p)


def _node_sentence(p: Pass, name: NodeName, state: NodeState) -> str:
    seen = p.facts.nodes[name]
    silence = p.facts.silence_s(seen.heard_at, p.now)
    return _NODE_SENTENCES[state].format(name=name, silence=silence)


def _runner_news(p: Pass) -> Iterator[Action]:
    for runner in p.book.runners.values():
        sentence = why_gone(p.facts, p.book, runner, p.now, p.timing)
        if sentence is not None:
            if runner.kill and runner.kill not in sentence:
                sentence = f"{sentence} (it was to end: {runner.kill})"
            ended = _exit_of(p, runner)
            yield RunnerGone(
                sentence=sentence,
                runner=runner.id,
                code=ended.code if ended else None,
                last_words=ended.log_tail if ended else (),
            )
        elif not runner.in_inventory and _is_listed(p, runner.node, runner.id):
            yield RunnerShown(sentence=f"{runner.id} runs on {runner.node}", runner=runner.id)


def _exit_of(p: Pass, runner: RunnerBook) -> ProcessExit | None:
    seen = p.facts.nodes.get(runner.node)
    exits = seen.facts.exits if seen else ()
    return next((ended for ended in exits if ended.runner_id == runner.id), None)


def _is_listed(p: Pass, node: NodeName, runner: str) -> bool:
    seen = p.facts.nodes.get(node)
    return seen is not None and any(r.runner_id == runner for r in seen.facts.processes)
