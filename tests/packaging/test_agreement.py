"""A package whose runner answers differently is not written."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.packaging import agreement, run
from tests.support import packages


@pytest.fixture
def engine(tiny: tuple[Path, GraphContract], tmp_path: Path) -> Path:
    """The tiny engine with a tokenizer."""
    return packages.ready(tiny[0], tmp_path / "point", speaks=True) / layout.ENGINE


def test_the_runner_agrees(engine: Path) -> None:
    """On texts, chats and tokens."""
    agreement.check(engine)


def test_every_difference_is_found(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token more in a chat, another text of tokens, and another greedy token in the second row's third step."""
    encode, generate = run.Text.encode, run.Model.generate

    def longer(self: run.Text, text: str, *, chat: bool, system: str | None = None) -> list[int]:
        return [*encode(self, text, chat=chat, system=system), *([5] if chat else [])]

    def wrong(self: run.Model, *arguments: Any) -> Any:
        steps = [list(step) for step in generate(self, *arguments)]
        steps[2][1] = 3 if steps[2][1] != 3 else 4
        return iter(steps)

    monkeypatch.setattr(run.Text, "encode", longer)
    monkeypatch.setattr(run.Text, "stream", lambda self, ids: iter("x"))
    monkeypatch.setattr(run.Model, "generate", wrong)
    with pytest.raises(UserError) as caught:
        agreement.check(engine)
    found = [problem.what for problem in caught.value.problems]
    assert sum("in the chat template" in what for what in found) == 2 * len(agreement.TEXTS)
    assert sum("another text" in what for what in found) == len(agreement.TEXTS)
    assert found[-1].startswith("token 2 of prompt 1 is ")
    assert not any("as text" in what for what in found)
