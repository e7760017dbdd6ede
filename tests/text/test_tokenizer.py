"""tokenizer: the tokens and texts of transformers, by the tokenizers library alone."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, TokenizersBackend

from pipeline.core.errors import Problem, UserError
from pipeline.text.streaming import decode_stream
from pipeline.text.tokenizer import FastTokenizer, TextTokenizer, TransformersTokenizer, open_tokenizer

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?'"


def byte_level() -> Tokenizer:
    """As GPT-2's: bytes, merges, tokens added to the vocabulary that eat spaces, a start token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "th", "the", "Ġthe"])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", AddedToken("<eos>", lstrip=True, rstrip=True)])
    backend.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("ab", single_word=True)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", len(vocabulary))])
    return backend


def sentencepiece() -> Tokenizer:
    """As Llama 2's: byte fallback, a space put before a text and taken away again."""
    pieces = ["<unk>", "<s>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *LETTERS, "th", "the"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("t", "h"), ("th", "e")]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token=pieces[0]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<unk>", "<s>", "<eos>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(4)  # what a file may ask for, and generation never wants
    backend.enable_padding(length=9)
    return backend


def unigram() -> Tokenizer:
    """As T5's and XGLM's: pieces with scores, a metaspace."""
    pieces = [("<unk>", 0.0), ("<eos>", 0.0), ("\u2581", -2.0), *((letter, -4.0) for letter in LETTERS), ("the", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<eos>"])
    return backend


def word_piece() -> Tokenizer:
    """As BERT's: lower case, words and their ends."""
    pieces = ["[UNK]", "<eos>", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##the"]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[UNK]", "<eos>"])
    return backend


KINDS = {make.__name__: make for make in (byte_level, sentencepiece, unigram, word_piece)}


@cache
def pair(kind: str) -> tuple[FastTokenizer, PreTrainedTokenizerBase]:
    """What is opened from the saved files of a tokenizer, and what transformers makes of them."""
    with TemporaryDirectory() as folder:
        options = {"chat_template": TURNS, "eos_token": "<eos>", "model_max_length": 10}
        TokenizersBackend(tokenizer_object=KINDS[kind](), **options).save_pretrained(folder)
        ours = open_tokenizer(Path(folder))
        assert isinstance(ours, FastTokenizer)
        return ours, AutoTokenizer.from_pretrained(folder)


TEXTS = st.text(st.sampled_from("the ab<>s/eo'\u2581\t\nA東😀é\u0301"), max_size=30) | st.lists(
    st.sampled_from(["<s>", "<eos>", "<tool>", "ab", " ", "the", "  the", "😀", "[UNK]", "x"]), max_size=12
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_the_tokens_of_transformers(kind: str, text: str) -> None:
    """Of texts and of chats, special tokens written out in them included."""
    ours, theirs = pair(kind)
    assert ours.encode(text) == theirs(text, verbose=False)["input_ids"]
    messages = [{"role": "system", "content": "the"}, {"role": "user", "content": text}]
    want = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ours.encode_prompt(text, chat=True, system="the") == want


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_text_of_transformers(kind: str, data: st.DataObject) -> None:
    """Of any tokens: parts of characters, added and special tokens, a space at the beginning; and streamed."""
    ours, theirs = pair(kind)
    ids = data.draw(st.lists(st.integers(0, len(theirs) - 1), max_size=25))
    want = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.decode(ids) == want
    other = TransformersTokenizer(theirs)
    assert list(decode_stream(ours.decode, iter(ids))) == list(decode_stream(other.decode, iter(ids)))


def opened(folder: Path, tokenizer: Any, **changes: Any) -> TextTokenizer | None:
    """What is opened from the files of a tokenizer whose configuration was changed."""
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return open_tokenizer(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"add_bos_token": True, "bos_token": "the"},
        {"pad_token": "<new>"},
        {"extra_special_tokens": ["<new>"]},
        {"split_special_tokens": True},
    ],
)
def test_what_transformers_changes_is_left_to_it(
    bytewise: PreTrainedTokenizerBase, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A class of its own, tokens that the file does not have, and settings that change it."""
    assert isinstance(opened(tmp_path, bytewise, **changes), TransformersTokenizer)


def test_one_without_a_rust_backend(tmp_path: Path) -> None:
    """ByT5 has no tokenizer.json."""
    ours, theirs = opened(tmp_path, ByT5Tokenizer(chat_template=TURNS)), ByT5Tokenizer()
    assert isinstance(ours, TransformersTokenizer)
    assert ours.encode("naïve") == theirs("naïve")["input_ids"]
    assert ours.decode(ours.encode_prompt("é", chat=True, system=None)) == "[user]é[bot]"


def test_random_weights_have_none(tmp_path: Path) -> None:
    """A folder without its configuration."""
    assert open_tokenizer(tmp_path) is None


def test_a_damaged_file(bytewise: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Is named, with what to do."""
    bytewise.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("files", [False, True])
def test_several_templates(bytewise: PreTrainedTokenizerBase, tmp_path: Path, files: bool) -> None:
    """In the configuration or in files, named as transformers names them; the one named default is taken."""
    templates = {"default": TURNS, "tool_use": "{{ bos_token }}x"}
    several = TokenizersBackend(tokenizer_object=bytewise.backend_tokenizer, chat_template=templates)
    several.save_pretrained(tmp_path, save_jinja_files=files)
    ours = open_tokenizer(tmp_path)
    assert isinstance(ours, FastTokenizer)
    assert ours.templates == AutoTokenizer.from_pretrained(tmp_path).chat_template == templates
    assert ours.decode(ours.encode_prompt("the", chat=True, system=None)) == "[user]the[bot]"


def test_special_tokens_by_name(bytewise: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """A template writes those that the model has, stated with their properties or without."""
    stated = {"content": bytewise.eos_token, "lstrip": False, "__type": "AddedToken"}
    ours = opened(tmp_path, bytewise, eos_token=stated, chat_template="{{ bos_token }}the{{ eos_token }}")
    assert isinstance(ours, FastTokenizer)
    assert ours.encode_prompt("x", chat=True, system=None)[-1] == bytewise.eos_token_id


def refusal(bytewise: PreTrainedTokenizerBase, templates: dict[str, str], system: str | None = None) -> Problem:
    """The one problem of a chat."""
    tokenizer = FastTokenizer(bytewise.backend_tokenizer, templates, {})
    with pytest.raises(UserError) as error:
        tokenizer.encode_prompt("hello", chat=True, system=system)
    (problem,) = error.value.problems
    return problem


def test_a_chat_without_a_template(bytewise: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Is refused with the way out, or with the names of those that there are."""
    assert "no chat template" in refusal(bytewise, {}).what
    assert "rag, tool_use" in refusal(bytewise, {"rag": TURNS, "tool_use": "x"}).what
    ours = opened(tmp_path, bytewise, chat_template=None)
    assert ours is not None
    assert ours.templates == {}


@pytest.mark.parametrize(("template", "says"), [
    ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x",
     "System role not supported"),
    ("{{ messages[0].content + 1 }}", "str"),
    ("{{ nothing.at.all }}", "'nothing' is undefined"),
    ("{% if %}", "Expected an expression"),
])  # fmt: skip
def test_a_template_that_raises(bytewise: PreTrainedTokenizerBase, template: str, says: str) -> None:
    """A problem with the template's own words; where a system text was given, that may be left out."""
    problem = refusal(bytewise, {"default": template}, system="be brief")
    assert says in problem.what
    assert problem.where == "system"
    assert "remove the system message" in problem.fix
