"""What is measured, under the names that users know from vLLM."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.types.control import Route, Routes

_PREFIX = "paceline"
_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ITL_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 5, 10)
_PAUSE_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 30, 60)
_E2E_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """One gateway's numbers, in a registry of their own.

    Labels take served models and error codes only, so no client can make them grow.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._cluster = _Cluster()
        self._registry.register(self._cluster)
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _TTFT_S
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "Between a stream's tokens, pauses included.", _ITL_S
        )
        self.request_latency = self._histogram(
            "e2e_request_latency_seconds", "From the request to the end of its answer.", _E2E_S
        )
        self.running = self._gauge("num_requests_running", "Requests being answered.")
        self.waiting = self._gauge("num_requests_waiting", "Requests waiting for an instance.")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens read.", "model_name")
        self.generation_tokens = self._counter(
            "generation_tokens", "Tokens generated.", "model_name"
        )
        self.success = self._counter(
            "request_success", "Choices that came to an end.", "model_name", "finished_reason"
        )
        self.rejected = self._counter(
            "requests_rejected", "Requests that ended in an error.", "code"
        )
        self.dismissed = self._counter(
            "connections_dismissed", "Connections closed while they had no request.", "reason"
        )
        self.resubmissions = self._counter(
            "stream_resubmissions", "Streams submitted again after their driver was left.", "reason"
        )
        self.stream_pause = self._histogram(
            "stream_pause_seconds",
            "Of streams whose driver was left: until that was noticed (detect), until another took "
            "them (replace), until their next token (replay).",
            _PAUSE_S,
            "phase",
        )
        self.suspicions = self._counter(
            "stream_suspicions",
            "Lines that failed under a stream that had gained nothing there.",
            "company",
        )
        self.dropped = self._counter(
            "stream_messages_dropped", "Tokens of no current attempt or position.", "reason"
        )
        self.numerics_changes = self._counter(
            "stream_numerics_changes", "Streams that went on with another numerics id."
        )

    def heed(self, routes: Routes) -> None:
        """What the controller says of the cluster; shown as it said it last."""
        self._cluster.news = routes

    def exposition(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"{_PREFIX}_{name}",
            text,
            ("model_name", *labels),
            buckets=buckets,
            registry=self._registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, registry=self._registry)


class _Cluster(Collector):
    """The controller's counts. They start again with its term, as a restarted process's do."""

    def __init__(self) -> None:
        self.news: Routes | None = None

    def collect(self) -> Iterator[Metric]:
        if self.news is None:
            return
        counts = self.news.counts
        tasks = CounterMetricFamily(
            f"{_PREFIX}_tasks", "Tasks of runners that ended.", labels=("kind", "state")
        )
        for name, count in sorted(counts.tasks.items()):
            tasks.add_metric(name.split("/"), count)
        events = CounterMetricFamily(
            f"{_PREFIX}_controller_events", "Decisions and observations.", labels=("kind",)
        )
        for kind, count in sorted(counts.events.items()):
            events.add_metric((kind,), count)
        strangers = CounterMetricFamily(
            f"{_PREFIX}_strangers",
            "Connections to ports between processes that came to nothing.",
            labels=("process",),
        )
        for process, count in sorted(counts.strangers.items()):
            strangers.add_metric((process,), count)
        nodes = GaugeMetricFamily(f"{_PREFIX}_nodes", "Nodes by state.", labels=("state",))
        for state, count in sorted(counts.nodes.items()):
            nodes.add_metric((state,), count)
        instances = GaugeMetricFamily(
            f"{_PREFIX}_instances", "Instances by state.", labels=("model_name", "state")
        )
        views = Count((view.model, view.state.value) for view in self.news.instances)
        for labels, count in sorted(views.items()):
            instances.add_metric(labels, count)
        yield from (tasks, events, strangers, nodes, instances)
        yield from _line_counters(self.news.routes)


_LINE_COUNTERS: tuple[tuple[str, str, Callable[[Route], int]], ...] = (
    ("prefix_cache_queries", "Prompt tokens looked for in KV pages.", lambda r: r.prefix_queries),
    ("prefix_cache_hits", "Prompt tokens found there.", lambda r: r.prefix_hits),
    ("spec_decode_num_draft_tokens", "Guesses at next tokens.", lambda r: r.guesses_made),
    ("spec_decode_num_accepted_tokens", "Guesses that were right.", lambda r: r.guesses_right),
)
"""Name, help, and the count."""


def _line_counters(routes: tuple[Route, ...]) -> Iterator[Metric]:
    """In tokens, under vLLM's names. A line's counts start again with its epoch."""
    for name, text, count in _LINE_COUNTERS:
        family = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=("model_name", "instance"))
        for route in routes:
            family.add_metric((route.model, route.instance), count(route))
        yield family
