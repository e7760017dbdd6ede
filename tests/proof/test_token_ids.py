"""token_ids: the ids of an artifact's tokenizer are those of the checkpoint's own files."""

import json
from pathlib import Path

import pytest

from pipeline.core import layout
from pipeline.core.schema import Model, Source, section
from pipeline.generate import Generator
from pipeline.proof import token_ids
from pipeline.text import tokens
from pipeline.verify import token_ids_of
from tests.support import gguf_files
from tests.support.points import build


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
    ids = generator.tokenizer.encode("the  123")
    assert ids == [1, *(gguf_files.TOKENS.index(t) for t in ("the", "Ġ", "Ġ", "123"))]
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
    found = token_ids.findings(tokenizer, section(Model, of_gguf), of_gguf / layout.CHECKPOINT, "in the end")
    assert found is not None
    assert "token ids differ from a.gguf's own in 2 of 20 texts" in found[0]
    assert """O'Ndur" from token 17 on, after "e'Ll": [""" in found[0]


def test_verify_says_what_it_cannot_check(of_gguf: Path, tmp_path: Path) -> None:
    """Ids that the file gives pass. Without a tokenizer, or where nothing else reads it, the report says that none were
    compared."""
    model = section(Model, of_gguf)
    assert token_ids_of(of_gguf / layout.ENGINE, model, of_gguf, None).as_dict() == {"passed": True, "failures": []}
    none = token_ids_of(tmp_path, Model(Source.random), tmp_path, None)
    assert none.as_dict() == {"not_run": "the model has no tokenizer"}
    other = token_ids_of(of_gguf / layout.ENGINE, Model(Source.local, path=str(tmp_path)), tmp_path, None)
    assert other.as_dict() == {"not_run": "no library but transformers reads this tokenizer's files"}


@pytest.mark.parametrize(("name", "pieces"), [("smollm", ["1", "2", "3"]), ("llama-bpe", ["123"])])
def test_a_byte_level_bpe_is_the_file_s_own(tmp_path: Path, name: str, pieces: list[str]) -> None:
    """Split as the file's pre-tokenizer splits, merged by its merges; control tokens are found before that."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": False})
    wanted = [gguf_files.TOKENS.index(piece) for piece in ("the", gguf_files.SPECIAL[1], *pieces)]
    assert token_ids.of_gguf(path)(f"the{gguf_files.SPECIAL[1]}123") == wanted


@pytest.mark.parametrize(("prefix", "wanted"), [(True, [261, 260, 99]), (False, [258, 260, 99])])
def test_sentencepiece_is_the_file_s_own(tmp_path: Path, prefix: bool, wanted: list[int]) -> None:
    """A space before a text or not, and bytes for what is not in the vocabulary; nothing is trained here."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "t", "th", "\u2581", "\u2581c", "\u2581th"]
    kinds = [2, *[6] * 256, *[1] * 5]
    scores = [0.0] * 257 + [-5.0, -2.0, -6.0, -3.0, -1.0]
    path = gguf_files.write(
        tmp_path / "a.gguf",
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": pieces,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.add_space_prefix": prefix,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.unknown_token_id": 0,
            "llama.vocab_size": len(pieces),
        },
    )
    assert token_ids.of_gguf(path)("th cb") == wanted


@pytest.mark.parametrize("metadata", [{"tokenizer.ggml.model": "t5"}, {"tokenizer.ggml.model": None}])
def test_files_that_only_transformers_reads(tmp_path: Path, metadata: dict[str, str | None]) -> None:
    """Then nothing is compared, which is not the same as no difference."""
    path = gguf_files.write(tmp_path / "a.gguf", metadata)
    assert token_ids.by_the_files(Model(Source.gguf, path=str(path)), path) is None


def test_only_the_beginning_of_a_text_is_compared(of_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference behind it is not looked for; one within it is shown with the tokens before it."""
    tokenizer = tokens.load_tokenizer(of_gguf / layout.ENGINE)
    assert tokenizer is not None
    tokenizer.add_tokens(["zz"])
    monkeypatch.setattr(token_ids, "EDGES", ())
    given = section(Model, of_gguf), of_gguf / layout.CHECKPOINT
    monkeypatch.setattr(token_ids, "COMPARED", 6)
    assert token_ids.findings(tokenizer, *given, "the an zz") == []
    monkeypatch.setattr(token_ids, "COMPARED", 100)
    found = token_ids.findings(tokenizer, *given, "the an zz")
    assert found is not None
    assert "differ from a.gguf's own in 1 of 1 texts" in found[0]
