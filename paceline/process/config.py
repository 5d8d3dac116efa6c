"""PACELINE_HOME/config.toml: what an owner may set for a whole cluster."""

from __future__ import annotations

from pathlib import Path

import msgspec

from paceline.types.errors import InvalidRequest
from paceline.types.policy import DEFAULT_TIERS, Tier, check_tiers
from paceline.types.timing import DEFAULT_TIMING, Timing, check_timing

CONFIG_NAME = "config.toml"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timing: Timing = DEFAULT_TIMING
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    """How many nodes a checkpoint takes by its size, when nobody says."""


def read_config(home: Path) -> Config:
    """The configuration of a home; the defaults where there is no file.

    Raises InvalidRequest, which names the file and what is wrong in it.
    """
    path = home / CONFIG_NAME
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
        check_timing(config.timing)
        check_tiers(config.tiers)
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError, msgspec.MsgspecError, InvalidRequest) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    return config
