"""What Ray's processes on every machine have in their environment, and its head beside it."""

from __future__ import annotations

from pathlib import Path

PURPOSE = "ray"
"""For which the token is derived from the membership: Ray sends it in clear text."""
VERY_LONG_S = 365 * 24 * 3600
LOG_BYTES = 4 * 2**20

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # Who is lost is for our controller to say: Ray's own verdict would end runners that serve.
    "RAY_gcs_rpc_server_reconnect_timeout_s": VERY_LONG_S,
    "RAY_health_check_initial_delay_ms": 60_000,
    "RAY_health_check_period_ms": 30_000,
    "RAY_health_check_timeout_ms": 30_000,
    "RAY_health_check_failure_threshold": 120,
    # So is what to do when memory is short.
    "RAY_memory_monitor_refresh_ms": 0,
    # By default Ray's workers give way to everybody else on the machine.
    "RAY_worker_niceness": 0,
    # What an agent leaves behind when it dies has nothing to tidy up.
    "RAY_kill_worker_timeout_milliseconds": 1000,
    # A node that leaves has been emptied by us.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": 0,
    "RAY_ROTATION_MAX_BYTES": LOG_BYTES,
    "RAY_ROTATION_BACKUP_COUNT": 1,
}


def ray_environment(token: str) -> dict[str, str]:
    """For `ray start` and for those who connect to it."""
    return {key: str(value) for key, value in _SETTINGS.items()} | {"RAY_AUTH_TOKEN": token}


def storage_environment(storage: Path) -> dict[str, str]:
    """For the head, so that it finds its nodes and actors again after a restart."""
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(storage)}
