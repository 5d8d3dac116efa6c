"""What became of each request: one line in the log, and the numbers."""

from __future__ import annotations

from collections.abc import Callable

from paceline.gateway.errors import shape_of
from paceline.gateway.generation import Generation
from paceline.gateway.metrics import Metrics
from paceline.process.logs import get_logger
from paceline.types.errors import PacelineError

log = get_logger(__name__)


class Account:
    """One request with streams, from their submission to their end."""

    def __init__(
        self, generation: Generation, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._generation = generation
        self._metrics = metrics
        self._clock = clock
        self._closed = False
        metrics.running.inc()

    def close(self, error: BaseException | None = None) -> None:
        """The request is over, by `error` if it is not as it should be. Cancels what still runs.
        Safe to repeat: the first one counts."""
        if self._closed:
            return
        self._closed = True
        self._generation.close()
        self._metrics.running.dec()
        self._count()
        self._log(error)

    def _count(self) -> None:
        work, usage, metrics = self._generation.work, self._generation.usage, self._metrics
        model = work.text.name
        metrics.request_latency.labels(model).observe(self._clock() - work.opened_at)
        metrics.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        metrics.generation_tokens.labels(model).inc(usage.completion_tokens)
        for reason in self._reasons():
            metrics.success.labels(model, reason).inc()

    def _log(self, error: BaseException | None) -> None:
        generation = self._generation
        usage, first_s = generation.usage, generation.first_token_s
        total_s = self._clock() - generation.work.opened_at
        decoding_s = total_s - (first_s or 0.0)
        log.info(
            "request finished",
            request=generation.work.request_id,
            model=generation.work.text.name,
            choices=len(generation.lives),
            attempts=max(live.stream.attempt for live in generation.lives),
            prompt_tokens=usage.prompt_tokens,
            tokens=usage.completion_tokens,
            first_token_s=None if first_s is None else round(first_s, 4),
            total_s=round(total_s, 4),
            tokens_per_s=round(usage.completion_tokens / decoding_s, 1) if decoding_s else None,
            finish_reasons=self._reasons(),
            status=_status(error),
            error=None if error is None else str(error) or type(error).__name__,
        )

    def _reasons(self) -> list[str]:
        reasons = (live.stream.finish_reason for live in self._generation.lives)
        return [reason.value for reason in reasons if reason is not None]


def _status(error: BaseException | None) -> int:
    if error is None:
        return 200
    return shape_of(error).status if isinstance(error, PacelineError) else 500
