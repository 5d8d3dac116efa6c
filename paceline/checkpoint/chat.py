"""Chat templates: the Jinja programs with which a model wants a conversation written down.

They come with the model, from strangers: they run in a sandbox, with bounded loops and output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paceline.checkpoint.jsonfile import read_json
from paceline.checkpoint.tokenizer import special_tokens
from paceline.types.errors import CheckpointError, InvalidRequest

MAX_CHARS = 8 << 20
"""Longest text that a template may write."""
MAX_STEPS = 1 << 18
"""Most turns of loops, and calls of macros, in one rendering."""

Clock = Callable[[], datetime]


def no_chat_template(model: str) -> InvalidRequest:
    """The error of a chat request to a model that was not made for chats."""
    return InvalidRequest(
        f"model {model!r} has no chat template; use /v1/completions with a plain prompt, "
        "or a model that was tuned for chats"
    )


class ChatTemplate:
    """The templates of one checkpoint."""

    def __init__(
        self, templates: Mapping[str, str], tokens: Mapping[str, str], clock: Clock = datetime.now
    ) -> None:
        """`templates` by name, one of them `default`. Raises jinja2.TemplateSyntaxError."""
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda layout: clock().strftime(layout)
        self._templates = {name: environment.from_string(text) for name, text in templates.items()}
        self._tokens = dict(tokens)

    @classmethod
    def load(cls, directory: Path, clock: Clock = datetime.now) -> ChatTemplate | None:
        """None if the checkpoint has no template. Raises CheckpointError for a broken one."""
        templates = _read_templates(directory)
        if not templates:
            return None
        try:
            return cls(templates, special_tokens(directory), clock)
        except TemplateSyntaxError as error:
            raise CheckpointError(
                f"{directory}: the chat template does not parse: {error.message} "
                f"(line {error.lineno})"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] = {},
    ) -> str:
        """The conversation as text, special tokens included: encode it without adding any.

        `variables` are further names for the template, such as `enable_thinking`.
        Raises InvalidRequest with the template's own words when it refuses the messages.
        """
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        budget = _Budget()
        context: dict[str, Any] = {**self._tokens, **variables}
        context |= {"messages": messages, "tools": tools, _STEP: budget.step}
        context["add_generation_prompt"] = add_generation_prompt
        pieces: list[str] = []
        try:
            for piece in self._templates[name].generate(context):
                budget.write(len(piece))
                pieces.append(piece)
        except InvalidRequest:
            raise
        except Exception as error:
            words = error.message if isinstance(error, TemplateError) else str(error)
            raise InvalidRequest(f"the chat template refused the messages: {words}") from error
        return "".join(pieces)


class _Budget:
    """Ends a rendering that has gone on for too long."""

    def __init__(self) -> None:
        self._steps = 0
        self._chars = 0

    def step(self) -> str:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise InvalidRequest(f"the chat template was stopped after {MAX_STEPS} steps")
        return ""

    def write(self, chars: int) -> None:
        self._chars += chars
        if self._chars > MAX_CHARS:
            raise InvalidRequest(f"the chat template wrote more than {MAX_CHARS} characters")


_STEP = "_paceline_step"


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose loops and macros count their turns."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        looping: list[nodes.For | nodes.Macro] = [*template.find_all(nodes.For)]
        looping += template.find_all(nodes.Macro)
        for node in looping:
            line = {"lineno": node.lineno}
            call = nodes.Call(nodes.Name(_STEP, "load", **line), [], [], None, None, **line)
            node.body.insert(0, nodes.Output([call], **line))
        template.set_environment(self)
        return template


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (declared so by Jinja)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _read_templates(directory: Path) -> dict[str, str]:
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return {"default": path.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    path = directory / "tokenizer_config.json"
    found = read_json(path).get("chat_template") if path.is_file() else None
    if found is None:
        return {}
    if isinstance(found, str):
        return {"default": found}
    try:
        named = {entry["name"]: entry["template"] for entry in found}
        return {"default": named["default"], **named}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: chat_template has no default template") from error
