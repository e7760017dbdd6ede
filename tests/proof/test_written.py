"""written: greedy text as people read it, beside the original's where that is another."""

from pathlib import Path

from pipeline.core import layout
from pipeline.proof.results import Result, Written
from pipeline.proof.written import texts_of


def cases(**written: Written) -> dict[str, Result]:
    """Cases of one artifact by name, with _ for a space."""
    return {name.replace("_", " "): Result(written=[text]) for name, text in written.items()}


def test_text_continues_its_prompt(speaking: Path) -> None:
    """Words follow the prompt's last one; equal text is there once; batches and cases without text are left out."""
    one, other = Written([0, 3], [4, 5], [4, 5]), Written([0, 3], [4, 0], [4, 6])
    given = {"prefill": Result(), "greedy 2": Result(failures=["does not run"])}
    given |= cases(greedy_0=one, greedy_1=other, greedy_ragged_batch=other)
    assert texts_of(given, speaking / layout.WRAPPED) == [
        {"prompt": "w3", "text": " w4 w5"},
        {"prompt": "w3", "text": " w4 <s>", "original": " w4 w6"},
    ]


def test_numbers_stand_for_text_without_a_tokenizer(tmp_path: Path) -> None:
    """Of a model of random weights; nothing is read where nothing was written."""
    given = cases(greedy_0=Written([1, 2], [30], [4]))
    assert texts_of(given, tmp_path) == [{"prompt": "1 2", "text": " 30", "original": " 4"}]
    assert texts_of({"contract": Result()}, tmp_path / "missing") == []
