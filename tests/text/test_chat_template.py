"""chat_template: the text that transformers renders, for whatever a template uses."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError, TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from pipeline.text.chat_template import render

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be <b>brief</b> & 'naïve'"},
    {"role": "user", "content": "東京?", "tool_calls": None},
    {"role": "assistant", "content": "x", "thinking": "hm"},
    {"role": "user", "content": [{"type": "text", "text": "why"}]},
]
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "whitespace": "{{ bos_token }}\n  {% if true %}\n  yes\n  {%- endif %}\n  {% set x = 1 -%}\n"
    "{{ x }}{{ eos_token }}\n",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ messages[0] | tojson(sort_keys=true) }}"
    "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% set y = 3 %}{% endgeneration %}{{ y }}{% endif %}{% endfor %}",
    "loops": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set n = namespace(seen=0, self=1) %}{% for m in messages %}"
    "{% set n.seen = n.seen + 1 %}"
    "{% endfor %}{{ n.seen }}{{ dict(a=1) }}{{ dict.fromkeys(['a']) }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|"
    "{{ 'tool_calls' in m }};{% endfor %}",
    "absent": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ anything is defined }}",
    "macro": "{% macro turn(m) %}[{{ m.role | upper }}]{% endmacro %}"
    "{% for m in messages[::-1] %}{{ turn(m) }}{% endfor %}",
    "text": "{{ messages[0].content.split('<')[0].strip() | trim }}{{ messages[0]['content'][:2] }}{{ '%d' % 3 }}",
    "date": "{{ strftime_now('%Y') }}",
}  # fmt: skip


def by_transformers(template: str, messages: list[dict[str, Any]]) -> str:
    """What transformers renders."""
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **SPECIAL)
    return str(rendered[0])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_of_transformers(name: str) -> None:
    """Whitespace, filters, globals, blocks and names, each in a template of its own."""
    text = render(TEMPLATES[name], CHAT, SPECIAL)
    assert text == by_transformers(TEMPLATES[name], CHAT)
    assert text


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "reasoning", "thinking"]), st.none() | st.text(max_size=9)),
        max_size=4,
    )
)
def test_any_messages(messages: list[dict[str, Any]]) -> None:
    """Keys missing or null, and any text."""
    template = "{{ messages | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert render(template, messages, SPECIAL) == by_transformers(template, messages)


def test_the_date_is_today() -> None:
    """As the user's clock says."""
    assert render("{{ strftime_now('%d %B %Y') }}", CHAT, SPECIAL) == datetime.now().strftime("%d %B %Y")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('no system role') }}", TemplateError),
        ("{{ ''.__class__.__mro__ }}", SecurityError),
        ("{{ messages.append(1) }}", SecurityError),
        ("{{ namespace(__class__=1) }}", SecurityError),
        ("{% set n = namespace() %}{% set n._a = 1 %}", SecurityError),
    ],
)
def test_what_a_template_may_not_do(template: str, error: type[Exception]) -> None:
    """It runs in a sandbox, where transformers' would raise too."""
    with pytest.raises(error):
        by_transformers(template, CHAT)
    with pytest.raises(error):
        render(template, CHAT, SPECIAL)


def test_messages_stay_as_they_are() -> None:
    """The caller's are not changed."""
    before = json.dumps(CHAT)
    render(TEMPLATES["reasoning"], CHAT, SPECIAL)
    assert json.dumps(CHAT) == before
