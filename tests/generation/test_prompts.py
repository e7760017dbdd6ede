"""prompts: lines of text and of JSON; every wrong line is named."""

import io
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.generation.prompts import Prompt, read

LINES = """What is {this}?

{"prompt": "two\\nlines"}
{"messages": [{"role": "user", "content": "é"}]}
[1] is text
"""


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text as it stands, JSON where a line begins with a brace; from a file and from stdin."""
    path = tmp_path / "prompts"
    path.write_text(LINES, encoding="utf-8")
    found = read(str(path))
    assert [prompt.text for prompt in found] == ["What is {this}?", "two\nlines", None, "[1] is text"]
    assert found[2] == Prompt(f"{path}:4", None, ({"role": "user", "content": "é"},))
    monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
    assert [prompt.text for prompt in read("-")] == [prompt.text for prompt in found]


def test_every_wrong_line_is_named(tmp_path: Path) -> None:
    """With its number."""
    path = tmp_path / "prompts"
    wrong = ["{", '{"prompt": 1}', '{"prompt": ""}', '{"messages": []}', '{"messages": ["x"]}', '{"text": "x"}']
    path.write_text("\n".join(["fine", *wrong, '{"prompt": "x", "messages": [{"role": "user"}]}']))
    with pytest.raises(UserError) as caught:
        read(str(path))
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{line}" for line in range(2, 9)]


@pytest.mark.parametrize("content", [None, b"\n \n", b"\xff"])
def test_no_prompts(tmp_path: Path, content: bytes | None) -> None:
    """No file, an empty one, and one that is not text."""
    if content is not None:
        (tmp_path / "prompts").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(str(tmp_path / "prompts"))
    assert [problem.where for problem in caught.value.problems] == ["--batch"]
