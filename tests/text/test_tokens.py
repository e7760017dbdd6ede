"""tokens: prompts, end tokens and streamed text, with whatever tokenizer a model brings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.checkpoint import gguf_model, loading
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source
from pipeline.text import tokens
from pipeline.text.stop_tokens import stop_tokens
from pipeline.text.tokens import decode_stream, encode
from tests.support import gguf_files

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"


@pytest.fixture(scope="module")
def bytewise() -> PreTrainedTokenizerBase:
    """A byte-level BPE with a few merges; tokens 0 to 2 are special, 2 ends a text."""
    vocabulary = {token: number for number, token in enumerate(gguf_files.TOKENS)}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in gguf_files.MERGES]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(gguf_files.SPECIAL)
    return TokenizersBackend(tokenizer_object=backend, eos_token=gguf_files.SPECIAL[2], chat_template=TURNS)


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


@given(ids=st.lists(st.integers(0, len(gguf_files.TOKENS) - 1), max_size=60))
def test_pieces_join_to_the_text_of_all_tokens(bytewise: PreTrainedTokenizerBase, ids: list[int]) -> None:
    """Random bytes, most of them not UTF-8, and special tokens among them: nothing raises, and what comes is what the
    tokenizer makes of all at once, up to a last character that is not whole."""
    assert_joined(bytewise, ids)


def assert_joined(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    """Pieces join to the whole text, but for a few tokens at its end that are not whole characters."""
    joined, whole = "".join(decode_stream(tokenizer, iter(ids))), tokenizer.decode(ids, skip_special_tokens=True)
    assert whole.startswith(joined)
    assert set(whole[len(joined) :]) <= {"\ufffd"}
    assert len(whole) - len(joined) <= tokens.PENDING


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
def test_tokens_without_a_character_come_soon(
    bytewise: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, token: int, wanted: str
) -> None:
    """500 of them, which no character ends: held back to the end they would be decoded 125,250 times."""
    decoded, whole = [], tokens._decoded

    def counted(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
        decoded.append(len(ids))
        return whole(tokenizer, ids)

    monkeypatch.setattr(tokens, "_decoded", counted)
    text = "".join(decode_stream(bytewise, iter([BYTES[ord("a")], *[token] * 500, BYTES[ord("b")]])))
    assert text == f"a{wanted * 500}b"
    assert sum(decoded) < 500 * 4 * tokens.PENDING


def test_a_space_behind_many_special_tokens() -> None:
    """The decoder takes the space from the first word of a text, and not from a word behind special tokens."""
    pieces = ["<unk>", "\u2581the", "\u2581cat"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<unk>"])
    tokenizer = TokenizersBackend(tokenizer_object=backend)
    assert list(decode_stream(tokenizer, iter([1, *[0] * 50, 2]))) == ["the", " cat"]


@given(text=st.text(max_size=40))
def test_pieces_of_a_text_are_whole_characters(bytewise: PreTrainedTokenizerBase, text: str) -> None:
    """Any text comes back, no character in parts."""
    ids = bytewise(text)["input_ids"]
    pieces = list(decode_stream(bytewise, iter(ids)))
    assert "".join(pieces) == text.rstrip("\ufffd")
    assert all(pieces)


@given(text=st.text(max_size=40), broken=st.lists(st.integers(3, 258), max_size=10))
def test_a_tokenizer_without_a_rust_backend(text: str, broken: list[int]) -> None:
    """ByT5, whose tokens are bytes; it leaves out what is not UTF-8."""
    tokenizer = ByT5Tokenizer()
    assert not hasattr(tokenizer, "backend_tokenizer")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(decode_stream(tokenizer, iter(ids))) == tokenizer.decode(ids, skip_special_tokens=True)
    "".join(decode_stream(tokenizer, iter(ids + broken)))


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
    assert list(decode_stream(tokenizer, iter(ids))) == ["the", "é", "東", " cat", " the"]


def local(folder: Path, tokenizer: PreTrainedTokenizerBase | None, **config: Any) -> Model:
    """A local checkpoint of a tiny Llama, without a generation config."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": len(gguf_files.TOKENS)}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    stored = json.loads((folder / "config.json").read_text())
    stored.pop("eos_token_id", None)
    (folder / "config.json").write_text(json.dumps(stored | config))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return Model(Source.local, path=str(folder))


def ends(model: Model, folder: Path) -> list[int]:
    """What the wrap stage writes."""
    write_link(model, folder)
    link = folder / layout.CHECKPOINT
    return loading.stop_tokens(model, link, loading.load(model, link), loading.load_tokenizer(model, link))


@pytest.fixture
def ending_in_five(bytewise: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose end token is 5."""
    return TokenizersBackend(tokenizer_object=bytewise.backend_tokenizer, eos_token=gguf_files.TOKENS[5])


def test_end_tokens_of_all_files_together(tmp_path: Path, ending_in_five: PreTrainedTokenizerBase) -> None:
    """Tokenizer, config and generation config; one or several each."""
    model = local(tmp_path / "a", ending_in_five, eos_token_id=[7, 8])
    assert ends(model, tmp_path) == [5, 7, 8]
    (tmp_path / "a/generation_config.json").write_text('{"eos_token_id": 9}')
    assert ends(model, tmp_path) == [5, 7, 8, 9]


def test_a_default_that_no_file_states(tmp_path: Path, ending_in_five: PreTrainedTokenizerBase) -> None:
    """LlamaConfig's 2 counts where the tokenizer takes it for special, or there is none; where it is ordinary text, it
    must not end one."""
    assert ends(local(tmp_path / "a", ending_in_five), tmp_path) == [2, 5]
    assert ends(local(tmp_path / "b", None), tmp_path) == [2]
    plain = Tokenizer(models.BPE({"<s>": 0, "a": 1, "b": 2}, []))
    start = "<s>"
    plain.add_special_tokens([start])
    other = TokenizersBackend(tokenizer_object=plain, eos_token=start)
    assert ends(local(tmp_path / "c", other), tmp_path) == [0]


def test_end_tokens_of_a_gguf_file(tmp_path: Path) -> None:
    """Of text, turn and message."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 0})
    model = Model(Source.gguf, path=str(path))
    tokenizer = loading.load_tokenizer(model, path)
    assert loading.stop_tokens(model, path, gguf_model.load(path), tokenizer) == [0, 1, 2]


def test_a_gguf_file_that_names_no_end(tmp_path: Path) -> None:
    """LlamaConfig's 2 counts where it is a control token, and is ordinary text otherwise."""
    ends_of = {}
    for kind in (3, 1):
        kinds = [3, 3, kind, *[1] * (len(gguf_files.TOKENS) - 3)]
        changes = {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": kinds}
        path = gguf_files.write(tmp_path / f"{kind}.gguf", changes)
        model = Model(Source.gguf, path=str(path))
        tokenizer = loading.load_tokenizer(model, path)
        ends_of[kind] = loading.stop_tokens(model, path, gguf_model.load(path), tokenizer)
    assert ends_of == {3: [2], 1: []}


def test_an_artifact_s_folder_has_all_of_them(tmp_path: Path) -> None:
    """One, several, none, no file."""
    for stored, wanted in ((5, {5}), ([5, 2], {2, 5}), (None, set())):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stored}))
        assert stop_tokens(tmp_path) == wanted
    assert stop_tokens(tmp_path / "nowhere") == frozenset()
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json is not valid JSON"):
        stop_tokens(tmp_path)


@pytest.mark.parametrize("value", ["</s>", True, 2.5])
def test_an_end_token_of_a_gguf_file_that_is_not_a_number(tmp_path: Path, value: Any) -> None:
    """The key is named."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.eot_token_id": value})
    model = Model(Source.gguf, path=str(path))
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.eot_token_id is .*, not a token id"):
        loading.stop_tokens(model, path, gguf_model.load(path), loading.load_tokenizer(model, path))
