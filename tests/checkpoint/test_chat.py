"""Chat templates: as `transformers` renders them, and harmless whatever is in them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import transformers

from paceline.checkpoint import ChatTemplate, no_chat_template
from paceline.types.errors import CheckpointError, InvalidRequest
from tests.support.models import smollm2_dir

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def render(template: str, messages: Any = MESSAGES, **options: Any) -> str:
    return ChatTemplate({"default": template}, {"bos_token": "<s>"}).render(messages, **options)


@pytest.mark.parametrize(
    "messages",
    [
        MESSAGES,
        [{"role": "system", "content": "Be short."}, *MESSAGES],
        [*MESSAGES, {"role": "assistant", "content": "Paris <&> 🥖"}, *MESSAGES],
    ],
)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_real_template_renders_as_in_transformers(
    messages: list[dict[str, str]], prompt: bool
) -> None:
    template = ChatTemplate.load(smollm2_dir())
    reference = transformers.AutoTokenizer.from_pretrained(smollm2_dir())
    assert template is not None
    assert template.render(messages, add_generation_prompt=prompt) == reference.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=False
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].role }}", "<s>user"),
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ tools is none }} {{ unknown is defined }}", "True False"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ m(2) }}", "[1][2]"),
        ("{% for a in [1, 2] %}{{ loop.index }}{% else %}none{% endfor %}", "12"),
    ],
)
def test_what_templates_may_do(template: str, expected: str) -> None:
    assert render(template) == expected


def test_the_clock_is_given() -> None:
    template = ChatTemplate(
        {"default": "{{ strftime_now('%d %b %Y') }}"}, {}, lambda: datetime(2024, 2, 29)
    )
    assert template.render([]) == "29 Feb 2024"


def test_variables_reach_the_template() -> None:
    template = "{{ enable_thinking }} {{ messages | length }}"
    assert render(template, variables={"enable_thinking": False, "messages": []}) == "False 1"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "refused the messages"),
        ("{{ messages[0].nothing.at.all }}", "no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely"),
        ("{% include '/etc/passwd' %}", "refused the messages"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion|steps"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "stopped after 262144 steps",
        ),
        ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "more than 8388608 characters"),
        ("{% for a in range(99999999) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_templates_may_not_do(template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        render(template)


def test_a_model_without_a_template(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert ChatTemplate.load(tmp_path) is None
    assert "'m' has no chat template; use /v1/completions" in str(no_chat_template("m"))


def test_templates_are_found_where_models_keep_them(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    named = [
        {"name": "default", "template": "plain {{ bos_token }}"},
        {"name": "tool_use", "template": "with {{ tools | length }} tools"},
    ]
    config.write_text(json.dumps({"chat_template": named, "bos_token": {"content": "<b>"}}))
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render([]) == "plain <b>"
    assert template.render([], tools=[{}, {}]) == "with 2 tools"
    (tmp_path / "chat_template.jinja").write_text("from a file")
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render([]) == "from a file"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"chat_template": "{% if %}"}, "does not parse"),
        ({"chat_template": [{"name": "x", "template": "y"}]}, "no default template"),
        ({"chat_template": 3}, "no default template"),
    ],
)
def test_a_broken_template_names_its_model(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=reason) as refused:
        ChatTemplate.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
