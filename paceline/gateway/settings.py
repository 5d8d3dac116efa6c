"""Every limit and deadline of the gateway in one place; seconds and bytes."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "localhost"
    """Where it listens, as it was told."""
    api_key: str | None = None
    """What clients must present on every route but /health; None admits everyone who can reach
    the gateway, which then is only this machine."""

    max_connections: int = 2048
    """Open at once; past that, one that has made no request makes room."""
    head_bytes: int = 16 << 10
    """Of a request's line and headers, as long as they are incomplete."""
    head_s: float = 10.0
    """A connection that has made no request by then is closed."""
    body_bytes: int = 8 << 20
    """Largest request body."""
    body_s: float = 30.0
    """A body that has not arrived whole by then is given up."""
    request_s: float = 1800.0
    """Deadline of a request that names no `timeout`."""
    max_choices: int = 128
    """Prompts times n, of one request."""
    max_streams: int = 1024
    """Streams alive at once; past that, requests are turned away with 503."""

    route_wait_s: float = 60.0
    """How long a request waits for an instance that starts or recovers."""
    max_waiting: int = 256
    """Requests that may wait so at once."""
    gone_s: float = 5.0
    """How long a model must be without any instance before its paused streams are given up."""

    keepalive_s: float = 10.0
    """Silence after which a stream's client gets an SSE comment."""
    write_s: float = 30.0
    """How long one write to a client may block before its streams are cancelled."""
    max_pending_tokens: int = 8192
    """Tokens of one stream that may wait for a slow client."""

    renew_s: float = 5.0
    link_silence_s: float = 3.0
    """A driver not heard of for so long is lost, until it is heard again."""
    stall_s: float = 30.0
    """A stream without progress for so long is submitted again; doubles each time."""
    stall_per_token_s: float = 0.05
    """Added to it for each token the driver must first read."""
    retry_s: float = 0.25
    """Pause before a stream that was turned away is submitted again; doubles each time."""
    retry_max_s: float = 4.0
    tick_s: float = 0.25

    ask_s: float = 5.0
    """How long the controller may take to answer an admin call."""
    events_poll_s: float = 0.5
    task_poll_s: float = 0.05
    """How often a task that was handed over is looked at."""
    inline_chars: int = 16_384
    """Prompts of more characters are rendered and tokenised in a thread."""
    beat_s: float = 0.5
    stop_s: float = 0.4
    """Grace for running requests when the gateway stops."""
