"""Text from engines of tiny models, built by the real stages: whatever tokenizer and end tokens a checkpoint brings."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from pipeline.core import layout
from pipeline.core.schema import Model, Source, section
from pipeline.generate import Generator
from pipeline.proof import token_ids
from pipeline.text import tokens
from pipeline.verify import token_ids_of
from tests.support import gguf_files
from tests.support.points import build

SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def local(folder: Path, tokenizer: Any, **config: Any) -> dict[str, str]:
    """A local checkpoint, as a section of params; its generation config has settings that transformers calls odd."""
    LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=384, **config)).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7, "do_sample": false, "temperature": 0.5}')
    tokenizer.save_pretrained(folder)
    return {"source": "local", "path": str(folder)}


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine of a local checkpoint with ByT5's tokenizer and two chat templates."""
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer = ByT5Tokenizer(chat_template={"default": "{{ messages[0].content }}!", "tool_use": "x"})
    build(folder / "point", [], model=local(folder / "model", tokenizer, eos_token_id=[9, 11]))
    return folder / "point" / layout.ENGINE


def test_a_tokenizer_without_a_rust_backend(of_bytes: Path) -> None:
    """Text comes out, stopped by every end token of the checkpoint."""
    assert json.loads((of_bytes / "generation_config.json").read_text())["eos_token_id"] == [1, 7, 9, 11]
    generator = Generator.load(of_bytes)
    assert generator.tokenizer is not None
    assert generator.stop == {1, 7, 9, 11}
    generator.stop = frozenset()
    ids = [token for (token,) in generator.tokens([encoded(generator, "naïve")], 20) if token is not None]
    text = "".join(generator.stream("naïve", 20, chat=False))
    assert text == generator.tokenizer.decode(ids, skip_special_tokens=True)


def encoded(generator: Generator, text: str) -> list[int]:
    """Tokens of a prompt."""
    assert generator.tokenizer is not None
    return tokens.encode(generator.tokenizer, text, chat=False, system=None)


def test_several_templates_reach_the_engine(of_bytes: Path) -> None:
    """As one file each they would be a folder, which the engine stage does not copy."""
    again = tokens.load_tokenizer(of_bytes)
    assert again is not None
    assert set(again.chat_template) == {"default", "tool_use"}
    assert again.decode(tokens.encode(again, "ab", chat=True, system=None), skip_special_tokens=True) == "ab!"


@pytest.fixture(scope="module")
def of_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A point of a tiny GGUF file, up to its engine."""
    folder = tmp_path_factory.mktemp("gguf")
    file = gguf_files.write(folder / "a.gguf", {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.pre": "llama-bpe"})
    build(folder / "point", [], model={"source": "gguf", "path": str(file)})
    return folder / "point"


def test_an_engine_of_a_gguf_file(of_gguf: Path) -> None:
    """It stands alone: end tokens of text and turn, ids by the pre-tokenizer and with the start token of the file."""
    generator = Generator.load(of_gguf / layout.ENGINE)
    assert generator.stop == {1, 2}
    assert generator.tokenizer is not None
    assert encoded(generator, "the  123") == [1, *(gguf_files.TOKENS.index(t) for t in ("the", "Ġ", "Ġ", "123"))]
    for folder in (layout.WRAPPED, layout.ENGINE):
        tokenizer = tokens.load_tokenizer(of_gguf / folder)
        assert token_ids.findings(tokenizer, section(Model, of_gguf), of_gguf / layout.CHECKPOINT, "the end") == []


def test_a_changed_tokenizer_is_found(of_gguf: Path) -> None:
    """An artifact whose vocabulary lost a merge."""
    tokenizer = tokens.load_tokenizer(of_gguf / layout.ENGINE)
    assert tokenizer is not None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["merges"] = backend["model"]["merges"][1:]
    tokenizer._tokenizer = tokenizer.backend_tokenizer.from_str(json.dumps(backend))
    (said,) = token_ids.findings(tokenizer, section(Model, of_gguf), of_gguf / layout.CHECKPOINT, "in the end")
    assert "token ids differ from a.gguf's own in 2 of 20 texts" in said


def test_verify_says_what_it_cannot_check(of_gguf: Path, tmp_path: Path) -> None:
    """Ids that the file gives pass. Without a tokenizer, or where nothing else reads it, the report says that none were
    compared."""
    model = section(Model, of_gguf)
    assert token_ids_of(of_gguf / layout.ENGINE, model, of_gguf, None).as_dict() == {"passed": True, "failures": []}
    none = token_ids_of(tmp_path, Model(Source.random), tmp_path, None)
    assert none.as_dict() == {"not_run": "the model has no tokenizer"}
    other = token_ids_of(of_gguf / layout.ENGINE, Model(Source.local, path=str(tmp_path)), tmp_path, None)
    assert other.as_dict() == {"not_run": "no library but transformers reads this tokenizer's files"}
