"""`paceline place --cluster FILE`: planning for a cluster that need not exist."""

from __future__ import annotations

from pathlib import Path

from paceline.checkpoint.facts import CONFIG_NAME, config_facts, model_facts
from paceline.checkpoint.store import Store
from paceline.planner import parse_cluster, preview
from paceline.process.config import read_config
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, NotFound
from paceline.types.instance import InstanceWish, Preview
from paceline.types.model import ModelFacts


def preview_described(wish: InstanceWish, cluster: Path, home: Home) -> Preview:
    """Where the wish would go on the described cluster. The wish's model may also be a directory
    in Hugging Face layout, or a config.json alone.

    Raises InvalidRequest for a file that is no description, NotFound for a model that is nowhere.
    """
    try:
        text = cluster.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{cluster}: cannot be read: {error}") from error
    try:
        described = parse_cluster(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{cluster}: {error}") from error
    model = _sizes(wish.model, home)
    tiers = read_config(home.path).tiers
    return preview(model, described.nodes, wish, links=described.links, tiers=tiers)


def _sizes(model: str, home: Home) -> ModelFacts:
    store, path = Store(home.path), Path(model)
    if path.is_file():
        return config_facts(path, path.absolute().parent.name)
    if (path / CONFIG_NAME).is_file():
        if any(path.glob("*.safetensors")):
            return model_facts(path, path.absolute().name)
        return config_facts(path / CONFIG_NAME, path.absolute().name)
    if store.has(model):
        return model_facts(store.path(model), model)
    raise NotFound(
        f"{model!r} is no model of this home, no directory in Hugging Face layout, no config.json"
    )
