"""Placements at the command line: for a cluster that is only described, and how they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from paceline.checkpoint import Store
from paceline.checkpoint.facts import CONFIG_NAME, described_facts, model_facts
from paceline.cli import show
from paceline.planner import parse_cluster, preview
from paceline.process.config import read_config
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, NotFound
from paceline.types.instance import InstanceWish
from paceline.types.model import ModelFacts


def for_described(model: str, cluster: Path, wish: dict[str, Any], home: Home) -> show.Row:
    """The preview of a wish on the nodes that a cluster file describes; no machine is touched."""
    try:
        described = parse_cluster(cluster.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{cluster} cannot be read: {error}") from error
    except InvalidRequest as error:
        raise InvalidRequest(f"{cluster}: {error}") from error
    facts = _sizes(model, home)
    asked = msgspec.convert(wish | {"id": "plan", "model": facts.name}, InstanceWish)
    tiers = read_config(home.path).tiers
    found = preview(facts, described.nodes, asked, links=described.links, tiers=tiers)
    shown: show.Row = msgspec.to_builtins(found)
    return shown


def _sizes(model: str, home: Home) -> ModelFacts:
    """Of a stored model, a checkpoint's directory, or a config.json by itself."""
    path = Path(model)
    if path.is_file():
        return described_facts(path, path.resolve().parent.name)
    if path.is_dir():
        whole = any(path.glob("*.safetensors"))
        name = path.resolve().name
        return model_facts(path, name) if whole else described_facts(path / CONFIG_NAME, name)
    store = Store(home.path)
    if path.name == model and store.has(model):
        return model_facts(store.path(model), model)
    raise NotFound(
        f"no model {model!r} here; `paceline pull` it, or give the path of its config.json"
    )


def show_preview(found: show.Row) -> None:
    placement = found["placement"]
    if placement:
        forecast = placement.get("forecast") or {}
        ranks = forecast.get("ranks") or [{}] * len(placement["seats"])
        rows = [{**seat, **rank} for seat, rank in zip(placement["seats"], ranks, strict=True)]
        show.table(show.SEATS, rows, "")
        if forecast:
            show.sentences(
                [
                    f"{show.seconds(forecast['seconds_per_token'])} per token for one stream",
                    f"{forecast['tokens_per_s']:.3g} tokens per second with every rank busy",
                ],
                indent="",
            )
    show.sentences(found["reasons"], indent="")
