"""streaming: pieces of text join to the whole, with whatever tokenizer a model brings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.text import streaming
from pipeline.text.streaming import decode_stream
from pipeline.text.tokenizer import TransformersTokenizer
from tests.support import gguf_files


@given(ids=st.lists(st.integers(0, len(gguf_files.TOKENS) - 1), max_size=60))
def test_pieces_join_to_the_text_of_all_tokens(bytewise: PreTrainedTokenizerBase, ids: list[int]) -> None:
    """Random bytes, most of them not UTF-8, and special tokens among them: nothing raises, and what comes is what the
    tokenizer makes of all at once, up to a last character that is not whole."""
    assert_joined(bytewise, ids)


def assert_joined(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    """Pieces join to the whole text, but for a few tokens at its end that are not whole characters."""
    joined, whole = (
        "".join(decode_stream(TransformersTokenizer(tokenizer).decode, iter(ids))),
        tokenizer.decode(ids, skip_special_tokens=True),
    )
    assert whole.startswith(joined)
    assert set(whole[len(joined) :]) <= {"\ufffd"}
    assert len(whole) - len(joined) <= streaming.PENDING


BYTES = {byte: gguf_files.TOKENS.index(letter) for byte, letter in bytes_to_unicode().items()}


@given(
    data=st.lists(
        st.sampled_from([b"\xff", b"\x80", b"\xe6", "東".encode(), "😀".encode(), b"\xf0\x9f", b""]), max_size=40
    )
)
def test_long_runs_that_are_not_characters(bytewise: PreTrainedTokenizerBase, data: list[bytes]) -> None:
    """Among them whole characters, of which none comes in parts, and special tokens (here the empty ones)."""
    assert_joined(bytewise, [token for part in data for token in [BYTES[byte] for byte in part] or [0]])


@pytest.mark.parametrize(("token", "wanted"), [(BYTES[0xFF], "\ufffd"), (0, "")])
def test_tokens_without_a_character_come_soon(bytewise: PreTrainedTokenizerBase, token: int, wanted: str) -> None:
    """500 of them, which no character ends: held back to the end they would be decoded 125,250 times."""
    decoded, whole = [], TransformersTokenizer(bytewise).decode

    def counted(ids: list[int]) -> str:
        decoded.append(len(ids))
        return whole(ids)

    text = "".join(decode_stream(counted, iter([BYTES[ord("a")], *[token] * 500, BYTES[ord("b")]])))
    assert text == f"a{wanted * 500}b"
    assert sum(decoded) < 500 * 4 * streaming.PENDING


def test_a_space_behind_many_special_tokens() -> None:
    """The decoder takes the space from the first word of a text, and not from a word behind special tokens."""
    pieces = ["<unk>", "\u2581the", "\u2581cat"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<unk>"])
    tokenizer = TokenizersBackend(tokenizer_object=backend)
    assert list(decode_stream(TransformersTokenizer(tokenizer).decode, iter([1, *[0] * 50, 2]))) == ["the", " cat"]


@given(text=st.text(max_size=40))
def test_pieces_of_a_text_are_whole_characters(bytewise: PreTrainedTokenizerBase, text: str) -> None:
    """Any text comes back, no character in parts."""
    ids = bytewise(text)["input_ids"]
    pieces = list(decode_stream(TransformersTokenizer(bytewise).decode, iter(ids)))
    assert "".join(pieces) == text.rstrip("\ufffd")
    assert all(pieces)


@given(text=st.text(max_size=40), broken=st.lists(st.integers(3, 258), max_size=10))
def test_a_tokenizer_without_a_rust_backend(text: str, broken: list[int]) -> None:
    """ByT5, whose tokens are bytes; it leaves out what is not UTF-8."""
    tokenizer = ByT5Tokenizer()
    assert not hasattr(tokenizer, "backend_tokenizer")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decode = TransformersTokenizer(tokenizer).decode
    assert "".join(decode_stream(decode, iter(ids))) == decode(ids)
    "".join(decode_stream(decode, iter(ids + broken)))


def test_byte_fallback_comes_whole() -> None:
    """Sentencepiece's tokens of single bytes, and the space that its decoder takes from the first word."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581the", "\u2581cat"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer = TokenizersBackend(tokenizer_object=backend)
    ids = [257, *(1 + byte for byte in "é東".encode()), 258, 257]
    assert list(decode_stream(TransformersTokenizer(tokenizer).decode, iter(ids))) == ["the", "é", "東", " cat", " the"]
