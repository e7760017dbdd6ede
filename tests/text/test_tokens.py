"""tokens: a text by transformers' tokenizer, split at its start token and cut into windows."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pipeline.text import tokens


def test_a_saved_tokenizer(bytewise: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Is loaded with its template; a folder without one has none."""
    assert tokens.load_tokenizer(tmp_path) is None
    bytewise.save_pretrained(tmp_path)
    again = tokens.load_tokenizer(tmp_path)
    assert again is not None
    assert again("in the end")["input_ids"] == bytewise("in the end")["input_ids"]
    assert again.chat_template == bytewise.chat_template


def test_windows_begin_with_the_start_token(bytewise: PreTrainedTokenizerBase) -> None:
    """Each of them; the last may be shorter."""
    assert tokens.split(bytewise, "the")[0] == []
    assert tokens.cut([1], [2, 3, 4, 5, 6], 3) == [[1, 2, 3], [1, 4, 5], [1, 6]]
