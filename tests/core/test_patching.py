"""What is replaced comes back, also after an error; what is remembered is asked for once."""

from types import SimpleNamespace

import pytest

from pipeline.core.patching import remembering, replaced


def test_replaced_comes_back() -> None:
    """Also when the code within fails."""
    owner = SimpleNamespace(value=1)
    with pytest.raises(ZeroDivisionError), replaced(owner, value=0):
        _ = 1 / owner.value
    assert owner.value == 1


def test_remembered_is_asked_once() -> None:
    """One call for each set of arguments."""
    asked: list[int] = []

    def answer(value: int) -> int:
        asked.append(value)
        return value

    ask = remembering(answer)
    assert [ask(1), ask(2), ask(1)] == [1, 2, 1]
    assert asked == [1, 2]
