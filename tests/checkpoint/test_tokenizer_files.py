"""tokenizer_files and token_ids: ids are those of the checkpoint's own files, for every source."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as splitting
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pipeline.checkpoint import gguf_metadata, pre_tokenizers, tokenizer_files
from pipeline.checkpoint.gguf_reader import fast_gguf_loading
from pipeline.checkpoint.tokenizer import load_tokenizer
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.proof import token_ids
from pipeline.text import texts, tokens
from tests.support import gguf_files
from tests.support.gguf_files import smollm2
from tests.support.points import ROOT

LLAMA_CPP = json.loads((ROOT / "tests/llama_cpp_ids.json").read_text(encoding="utf-8"))
TEXT = "the  cat\n\n1. In 1234 the = 12 'S\n" + "\n".join(token_ids.EDGES)


def differences(*arguments: Any) -> list[str]:
    """How an artifact's tokenizer differs from the checkpoint's files, which can be read without transformers."""
    found = token_ids.findings(*arguments)
    assert found is not None
    return found


def loaded(model: Model, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the wrap stage saves, read from the artifact's folder as an engine reads it."""
    point, out = folder / "point", folder / "wrapped"
    write_link(model, point)
    tokenizer = load_tokenizer(model, point / layout.CHECKPOINT)
    assert tokenizer is not None
    tokenizer.save_pretrained(out)
    again = tokens.load_tokenizer(out)
    assert again is not None
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert token_ids.findings(again, model, point / layout.CHECKPOINT, TEXT) == []
    return again


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    """A byte-level BPE that splits text as no class of transformers does, and begins every text with <s>."""
    tokenizer = Tokenizer(models.BPE())
    split = splitting.Split(Regex(r"\s+|\p{N}{1,2}|\p{L}+|[^\s\p{N}\p{L}]+"), "isolated")
    level = splitting.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = splitting.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = splitting.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def checkpoint_folder(folder: Path, trained: Tokenizer, architecture: str, **config: Any) -> Path:
    """What of a local checkpoint a tokenizer is loaded from; the weights are a name."""
    folder.mkdir()
    trained.save(str(folder / "tokenizer.json"))
    AutoConfig.for_model(architecture).save_pretrained(folder)
    save_file({"weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | config))
    return folder


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen2", "gemma3_text", "mistral"])
@pytest.mark.parametrize("name", ["GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_ids_are_tokenizer_json_s_own(tmp_path: Path, trained: Tokenizer, architecture: str, name: str) -> None:
    """Whatever class the configuration names, and what that class would make of the vocabulary; before and after the
    tokenizer is saved with an artifact. What transformers knows besides stays."""
    options = {"tokenizer_class": name, "chat_template": "{{ messages[0].content }}", "add_bos_token": False}
    folder = checkpoint_folder(tmp_path / "a", trained, architecture, **options)
    tokenizer = loaded(Model(Source.local, path=str(folder)), tmp_path)
    wanted = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (TEXT, *token_ids.EDGES):
        assert tokenizer(text)["input_ids"] == wanted.encode(text).ids
        assert tokenizer.decode(wanted.encode(text).ids) == wanted.decode(wanted.encode(text).ids, False)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.chat_template == options["chat_template"]


def test_another_splitting_is_found(tmp_path: Path, trained: Tokenizer) -> None:
    """What transformers alone makes of such a folder: the check names token and text."""
    folder = checkpoint_folder(tmp_path / "a", trained, "gpt2", tokenizer_class="GPT2Tokenizer")
    other = AutoTokenizer.from_pretrained(folder)
    (said,) = differences(other, Model(Source.local, path=str(folder)), folder, TEXT)
    assert "token ids differ from tokenizer.json's own in 5 of 20 texts" in said
    assert "from token 2 on, after '<s>the'" in said


@pytest.mark.parametrize(("change", "text"), [
    (normalizers.Strip(left=True, right=False), " leading"),
    (normalizers.Strip(left=False, right=True), "trailing "),
])  # fmt: skip
def test_the_beginning_and_the_end_of_a_text_are_compared(
    tmp_path: Path, trained: Tokenizer, change: normalizers.Normalizer, text: str
) -> None:
    """What happens there alone shows in no longer text."""
    folder = checkpoint_folder(tmp_path / "a", trained, "gpt2")
    model = Model(Source.local, path=str(folder))
    other = load_tokenizer(model, folder)
    assert other is not None
    other.backend_tokenizer.normalizer = change
    wanted = trained.encode("the cat").ids
    assert other("the cat")["input_ids"] == wanted
    assert other(text)["input_ids"] != trained.encode(text).ids
    (said,) = differences(other, model, folder, "the cat")
    assert "token ids differ from tokenizer.json's own" in said


def test_a_damaged_tokenizer_json(tmp_path: Path, trained: Tokenizer) -> None:
    """One problem that names the file."""
    folder = checkpoint_folder(tmp_path / "a", trained, "llama")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read") as error:
        load_tokenizer(Model(Source.local, path=str(folder)), folder)
    assert error.value.problems[0].where == str(folder / "tokenizer.json")


def test_a_damaged_tokenizer_config(tmp_path: Path, trained: Tokenizer) -> None:
    """One problem with transformers' own words, whatever it raises."""
    folder = checkpoint_folder(tmp_path / "a", trained, "llama")
    for content in ("{", "[]", '{"tokenizer_class": 3}'):
        (folder / "tokenizer_config.json").write_text(content)
        with pytest.raises(UserError, match=r"the tokenizer of .* does not load: .*Error"):
            load_tokenizer(Model(Source.local, path=str(folder)), folder)


HUB = """
from pathlib import Path
from pipeline.checkpoint.tokenizer import load_tokenizer
from pipeline.core.schema import Model, Source
from pipeline.proof import token_ids
model = Model(Source.hub, id="someone/tiny", revision="a" * 40)
tokenizer = load_tokenizer(model, Path("checkpoint"))
print(tokenizer("a  1234 b")["input_ids"], token_ids.findings(tokenizer, model, Path("checkpoint"), "a  1234 b"))
"""


def test_a_tokenizer_of_the_hub(tmp_path: Path, trained: Tokenizer) -> None:
    """The same, through a hub's cache, offline."""
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    checkpoint_folder(snapshot, trained, "gpt2", tokenizer_class="GPT2Tokenizer")
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", HUB], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{trained.encode('a  1234 b').ids} []\n", done.stderr


def test_the_default_model_s_ids_are_llama_cpp_s(tmp_path: Path) -> None:
    """Edge cases; ids that llama.cpp gave (python -m benchmarks.tokens --write)."""
    tokenizer = loaded(Model(Source.gguf, path=str(smollm2())), tmp_path)
    ids = {text: tokenizer(text)["input_ids"] for text in LLAMA_CPP["ids"]}
    assert ids == LLAMA_CPP["ids"]
    assert set(LLAMA_CPP["ids"]) == set(token_ids.EDGES)


@pytest.mark.slow
def test_every_pre_tokenizer_is_llama_cpp_s(tmp_path: Path) -> None:
    """A fingerprint of the ids of 10,000 characters for each name, with the numbers of two and three digits added to
    the vocabulary."""
    from benchmarks import tokens as compared

    vocabulary = tmp_path / "vocabulary.gguf"
    compared.with_numbers(smollm2(), vocabulary)
    text, backend = compared.edge_text(), token_ids.byte_level(vocabulary)
    found: dict[tuple[tuple[str, ...], bool], str] = {}  # names share expressions
    for name, expressions in pre_tokenizers.EXPRESSIONS.items():
        key = expressions, name in pre_tokenizers.IGNORE_MERGES
        if key not in found:
            ids = compared.named(backend, name).encode(text, add_special_tokens=False).ids
            found[key] = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]
        assert found[key] == LLAMA_CPP["fingerprints"][name], name
    assert set(LLAMA_CPP["fingerprints"]) == set(pre_tokenizers.EXPRESSIONS)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama_cpp, which make bench installs")
def test_the_whole_quality_text_as_llama_cpp() -> None:
    """The default model's ids over all that perplexity is measured on."""
    from benchmarks import tokens as compared

    assert compared.compare_file(smollm2()).endswith("ids equal")


def test_smollm_s_pre_tokenizer_matters() -> None:
    """transformers does not know the name; the check that the proof makes sees what it does instead."""
    path = smollm2()
    with fast_gguf_loading():
        other = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = texts.read(None, texts.QUALITY, Path())
    assert token_ids.findings(other, Model(Source.gguf, path=str(path)), path, text)


def test_files_beside_a_gguf_file_are_left_alone(tmp_path: Path, trained: Tokenizer) -> None:
    """transformers alone would read this tokenizer.json instead."""
    path = gguf_files.write(checkpoint_folder(tmp_path / "a", trained, "gpt2") / "a.gguf")
    tokenizer = loaded(Model(Source.gguf, path=str(path)), tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the 12")["input_ids"]) == ["the", "Ġ", "1", "2"]
    assert tokenizer.eos_token == gguf_files.SPECIAL[2]


@pytest.mark.parametrize(("metadata", "first"), [
    ({}, []),
    ({"tokenizer.ggml.pre": "llama-bpe"}, [1]),
    ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, []),
    ({"tokenizer.ggml.add_bos_token": True}, [1]),
])  # fmt: skip
def test_start_tokens_of_gguf_files(tmp_path: Path, metadata: dict[str, Any], first: list[int]) -> None:
    """As the file says; where it does not, as llama.cpp does for the name."""
    path = gguf_files.write(tmp_path / "a.gguf", metadata)
    tokenizer = loaded(Model(Source.gguf, path=str(path)), tmp_path)
    ids = tokenizer("the 123")["input_ids"]
    assert ids[: len(ids) - len(tokenizer("the 123", add_special_tokens=False)["input_ids"])] == first


@pytest.mark.parametrize("name", ["smollm", "llama-bpe"])
@pytest.mark.parametrize("starts", [None, True, False])
@pytest.mark.parametrize("ends", [None, True, False])
def test_end_tokens_of_gguf_files(tmp_path: Path, name: str, starts: bool | None, ends: bool | None) -> None:
    """Whatever the file says of both: the ids are those that llama.cpp gave for these files."""
    metadata = {"tokenizer.ggml.add_bos_token": starts, "tokenizer.ggml.add_eos_token": ends}
    path = gguf_files.write(tmp_path / "a.gguf", metadata | {"tokenizer.ggml.pre": name})
    tokenizer = loaded(Model(Source.gguf, path=str(path)), tmp_path)
    first = [1] if starts or (starts is None and name == "llama-bpe") else []
    wanted = [*first, gguf_files.TOKENS.index("the"), *([2] if ends else [])]
    assert tokenizer("the")["input_ids"] == token_ids.of_gguf(path)("the") == wanted


def test_a_piece_that_is_a_token_is_that_token(tmp_path: Path) -> None:
    """Whatever the merges make of it, for the names of which llama.cpp says so."""
    changes = {"tokenizer.ggml.merges": [merge for merge in gguf_files.MERGES if merge != "1 2"]}
    ids = {}
    for name in ("llama-bpe", "chatglm-bpe"):
        path = gguf_files.write(tmp_path / f"{name}.gguf", changes | {"tokenizer.ggml.pre": name})
        tokenizer = load_tokenizer(Model(Source.gguf, path=str(path)), path)
        assert tokenizer is not None
        ids[name] = tokenizer.tokenize("123")
    assert ids == {"llama-bpe": ["123"], "chatglm-bpe": ["1", "2", "3"]}


@pytest.mark.parametrize(("architecture", "prefix"), [("llama", True), ("llama", False), ("gemma3", False)])
def test_sentencepiece_of_gguf_files(tmp_path: Path, architecture: str, prefix: bool) -> None:
    """Ids and text are what sentencepiece gives: a space before a text or not, bytes for unknown characters, and in
    Gemma's files tokens of several spaces, which it finds before it merges anything."""
    spaces = [tokenizer_files.SPACE * n for n in range(2, 6)] if architecture == "gemma3" else []
    (tmp_path / "text").write_text(TEXT * 3, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "m"), vocab_size=560, model_type="bpe",
        byte_fallback=True, user_defined_symbols=spaces, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, minloglevel=2,
    )  # fmt: skip
    proto = ModelProto.FromString((tmp_path / "m.model").read_bytes())
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [
            piece.piece.replace(tokenizer_files.SPACE, " ") if piece.type == 4 else piece.piece
            for piece in proto.pieces
        ],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [int(piece.type) for piece in proto.pieces],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.unknown_token_id": 0,
        "llama.vocab_size": len(proto.pieces),
    }
    path = gguf_files.write(tmp_path / "a.gguf", metadata, architecture=architecture)
    tokenizer = loaded(Model(Source.gguf, path=str(path)), tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    for text in ("the  cat in    the 12345", "a        b", " leading", "x\n\ny 東京 é", "the cat"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text), text
        assert tokenizer.decode(own.encode(text)) == own.decode(own.encode(text))


def test_a_gguf_file_without_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers tokens only, and says so."""
    none = {f"tokenizer.ggml.{key}": None for key in ("tokens", "token_type", "merges", "pre")}
    path = gguf_files.write(tmp_path / "a.gguf", none | {"tokenizer.ggml.model": "none"})
    assert load_tokenizer(Model(Source.gguf, path=str(path)), path) is None
    assert "answer tokens only" in capsys.readouterr().err
    assert gguf_metadata.problems(path) == []
