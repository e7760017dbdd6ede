"""tokens: prompts, end tokens and streamed text, with whatever tokenizer a model brings."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from pipeline.core.errors import Problem, UserError
from pipeline.text import tokens
from pipeline.text.tokens import encode

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"


def refusal(tokenizer: PreTrainedTokenizerBase, **options: Any) -> Problem:
    """The one problem of a chat."""
    with pytest.raises(UserError) as error:
        encode(tokenizer, "hello", **{"chat": True, "system": None} | options)
    (problem,) = error.value.problems
    return problem


def with_template(tokenizer: PreTrainedTokenizerBase, template: Any) -> PreTrainedTokenizerBase:
    """The tokenizer with another chat template."""
    return TokenizersBackend(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)


def test_a_chat_is_the_template_s_text(bytewise: PreTrainedTokenizerBase) -> None:
    """System and user's turn, and the beginning of the answer."""
    ids = encode(bytewise, "in the end", chat=True, system="be brief")
    assert bytewise.decode(ids) == "[system]be brief[user]in the end[bot]"
    assert encode(bytewise, "in the end", chat=False, system=None) == bytewise("in the end")["input_ids"]


def test_a_model_without_a_template(bytewise: PreTrainedTokenizerBase) -> None:
    """Chat is refused with the way out."""
    for template in (None, ""):
        assert "no chat template" in refusal(with_template(bytewise, template)).what


def test_several_templates(bytewise: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """The one named default is taken, before and after saving; without one the names are said."""
    several = with_template(bytewise, {"default": TURNS, "tool_use": "x"})
    several.save_pretrained(tmp_path, save_jinja_files=False)  # as the wrap stage does
    again = tokens.load_tokenizer(tmp_path)
    assert again is not None
    for tokenizer in (several, again):
        assert encode(tokenizer, "the", chat=True, system=None) == encode(bytewise, "the", chat=True, system=None)
    assert "rag, tool_use" in refusal(with_template(bytewise, {"rag": TURNS, "tool_use": "x"})).what


@pytest.mark.parametrize(("template", "says"), [
    ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x",
     "System role not supported"),
    ("{{ messages[0].content + 1 }}", "str"),
    ("{{ nothing.at.all }}", "'nothing' is undefined"),
    ("{% if %}", "Expected an expression"),
])  # fmt: skip
def test_a_template_that_raises(bytewise: PreTrainedTokenizerBase, template: str, says: str) -> None:
    """A problem with the template's own words; where a system text was given, that may be left out."""
    problem = refusal(with_template(bytewise, template), system="be brief")
    assert says in problem.what
    assert problem.where == "system"
    assert "remove the system message" in problem.fix
