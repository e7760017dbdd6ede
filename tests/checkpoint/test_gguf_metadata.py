"""gguf_metadata: the header is read as gguf reads it, and no damage to it ends in a traceback."""

import contextlib
import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import gguf_metadata
from pipeline.core.errors import Problem, UserError
from tests.support import gguf_files

COUNT = 2**60


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file."""
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "a.gguf", {"some.numbers": [1, 2]})


def refusal(path: Path) -> Problem:
    """The one problem of a file."""
    try:
        (problem,) = gguf_metadata.problems(path)
    except UserError as error:
        (problem,) = error.problems
    return problem


def rewritten(file: Path, folder: Path, at: int, data: bytes) -> Path:
    """A copy with other bytes in one place."""
    content = bytearray(file.read_bytes())
    content[at : at + len(data)] = data
    path = folder / "changed.gguf"
    path.write_bytes(content)
    return path


def test_block_sizes_are_gguf_s_own() -> None:
    """The table holds every type that the installed gguf knows."""
    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == gguf_metadata.BLOCKS


def test_the_header_is_what_gguf_reads(file: Path) -> None:
    """Every number, text and short array, the length of long ones, every tensor with its shape and type."""
    header, reader = gguf_metadata.read(file), gguf.GGUFReader(file)
    for key, value in header.metadata.items():
        own = reader.fields[key].contents()
        assert value == (own if not isinstance(own, list) or not isinstance(own[0], str) else len(own)), key
    assert {
        f"GGUF.{name}" for name in ("version", "tensor_count", "kv_count")
    } == reader.fields.keys() - header.metadata
    table = [(t.name, t.shape, t.kind) for t in header.tensors]
    assert table == [(t.name, tuple(reversed(t.shape.tolist())), int(t.tensor_type)) for t in reader.tensors]
    assert gguf_metadata.problems(file) == []


@pytest.mark.parametrize("length", [0, 3, 20, 23, 24, 100, 1000, 4000])
def test_a_file_cut_off_in_its_header(file: Path, tmp_path: Path, length: int) -> None:
    """One problem with the file, the cause and what to do."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.read_bytes()[:length])
    problem = refusal(path)
    assert str(path) in problem.what
    assert "download" in problem.fix


def test_a_file_cut_off_in_its_weights(file: Path, tmp_path: Path) -> None:
    """The first tensor that is not whole is named."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.read_bytes()[:-4])
    assert "tensor blk.1.ffn_down.weight ends at byte" in refusal(path).what


@pytest.mark.parametrize(
    ("at", "data", "says"),
    [
        (0, b"PK\3\4", "does not begin with the letters GGUF"),
        (4, struct.pack("<I", 1), "version is 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", COUNT), f"claims {COUNT} tensors"),
        (16, struct.pack("<Q", COUNT), f"claims {COUNT} keys"),
        (24, struct.pack("<Q", COUNT), f"claims {COUNT} bytes"),
    ],
)
def test_numbers_that_a_damaged_file_claims(file: Path, tmp_path: Path, at: int, data: bytes, says: str) -> None:
    """Magic, version, byte order, counts and lengths: said before memory is asked for."""
    assert says in refusal(rewritten(file, tmp_path, at, data)).what


@pytest.mark.parametrize(("key", "says"), [("some.numbers", "numbers"), ("tokenizer.ggml.merges", "texts")])
def test_arrays_longer_than_the_file(file: Path, tmp_path: Path, key: str, says: str) -> None:
    """Here and in the reader that transformers uses within fast_gguf_loading."""
    at = file.read_bytes().index(key.encode()) + len(key) + 8  # behind the types of the value and its elements
    path = rewritten(file, tmp_path, at, struct.pack("<Q", COUNT))
    assert f"claims {COUNT} {says}" in refusal(path).what
    from pipeline.checkpoint.gguf_reader import fast_gguf_loading

    with fast_gguf_loading(), pytest.raises(ValueError, match=f"claims {COUNT} values"):
        gguf.GGUFReader(path)


@given(at=st.integers(0, 6000), data=st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_header_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, file: Path, at: int, data: bytes
) -> None:
    """Whatever bytes are overwritten: the file is sound, or it is the user's."""
    with contextlib.suppress(UserError):
        gguf_metadata.problems(rewritten(file, tmp_path_factory.getbasetemp(), at, data))


def test_a_file_that_the_system_cannot_read(tmp_path: Path) -> None:
    """Another user's file, a bad disk; here a folder and a file that is gone."""
    for path, says in ((tmp_path, "Is a directory"), (tmp_path / "gone.gguf", "No such file or directory")):
        found = refusal(path)
        assert (found.what, found.where) == (f"{path} cannot be read: {says}", "model.path")


def test_a_part_of_a_split_file(tmp_path: Path) -> None:
    """Refused with the command that merges it."""
    problem = refusal(gguf_files.write(tmp_path / "m-00002-of-00003.gguf", {"split.count": 3}))
    assert "one of 3 parts" in problem.what
    assert "llama-gguf-split --merge m-00001-of-00003.gguf" in problem.fix
    assert gguf_metadata.problems(gguf_files.write(tmp_path / "whole.gguf", {"split.count": 1})) == []


def test_an_unknown_pre_tokenizer(tmp_path: Path) -> None:
    """Named. A missing one is llama.cpp's default, and sentencepiece has none."""
    assert (
        "'nobody-knows'" in refusal(gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.pre": "nobody-knows"})).what
    )
    missing = gguf_metadata.read(gguf_files.write(tmp_path / "b.gguf", {"tokenizer.ggml.pre": None}))
    assert missing.pre_tokenizer == "default"
    other = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "whatever"}
    assert gguf_metadata.read(gguf_files.write(tmp_path / "c.gguf", other)).pre_tokenizer is None


@pytest.mark.parametrize(
    ("metadata", "tensor", "architecture", "says"),
    [
        ({"llama.rope.scaling.type": "longrope"}, None, "llama", "rope.scaling.type is 'longrope'"),
        ({}, "rope_factors_long.weight", "llama", "rope_factors_long.weight"),
        ({"llama.rope.scaling.factor": 4.0}, None, "stablelm", "rotary scaling of stablelm"),
        ({"llama.rope.scale_linear": 4.0}, None, "stablelm", "rotary scaling of stablelm"),
        ({"llama.rope.scaling.type": "yarn"}, None, "llama", "type is yarn and the file gives no factor"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 0.0}, None, "llama", "gives no factor"),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -4.0},
            None,
            "llama",
            "factor is -4.0, which",
        ),
        ({"llama.rope.scaling.factor": math.nan}, None, "llama", "factor is nan, which is not a positive number"),
        ({"llama.rope.scaling.factor": "four"}, None, "llama", "factor is 'four', which is not a positive number"),
        ({}, "rope_freqs.weight", "phi3", "rotary scaling of phi3"),
    ],
)
def test_rotary_scaling_that_is_not_applied(
    tmp_path: Path, metadata: dict[str, Any], tensor: str | None, architecture: str, says: str
) -> None:
    """Refused by name."""
    weights = gguf_files.tensors() | ({tensor: np.ones(8, np.float32)} if tensor else {})
    path = gguf_files.write(tmp_path / "a.gguf", metadata, weights, architecture=architecture)
    assert says in refusal(path).what


@pytest.mark.parametrize("metadata", [
    {"llama.rope.scaling.type": "linear"},
    {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
    {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
    {"llama.rope.scale_linear": 1.0},
])  # fmt: skip
def test_rotary_scaling_that_changes_nothing(tmp_path: Path, metadata: dict[str, Any]) -> None:
    """By llama.cpp's rules; so every architecture takes it."""
    path = gguf_files.write(tmp_path / "a.gguf", metadata, architecture="stablelm")
    assert gguf_metadata.problems(path) == []
    assert gguf_metadata.read(path).rotary_scaling[0] == "none"


@pytest.mark.parametrize(("changes", "wanted"), [
    ({}, (1, None)),
    ({"add_eos_token": True}, (1, 2)),
    ({"add_eos_token": True, "bos_token_id": 7, "eos_token_id": 9}, (7, 9)),
    ({"add_bos_token": False, "bos_token_id": 7}, (None, None)),
])  # fmt: skip
def test_start_and_end_tokens_of_sentencepiece(
    tmp_path: Path, changes: dict[str, Any], wanted: tuple[int | None, int | None]
) -> None:
    """Where the file names none they are sentencepiece's own, as llama.cpp gave for such files."""
    metadata = {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.eos_token_id": None}
    metadata |= {"tokenizer.ggml.model": "llama"} | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    assert gguf_metadata.read(gguf_files.write(tmp_path / "a.gguf", metadata)).edge_tokens == wanted


@pytest.mark.parametrize("number", [len(gguf_files.TOKENS), "x", [1, 2], True])
@pytest.mark.parametrize("edge", ["bos", "eos"])
def test_a_start_or_end_token_that_does_not_exist(tmp_path: Path, edge: str, number: Any) -> None:
    """Refused where it would be added to texts, and left alone where it would not."""
    metadata = {f"tokenizer.ggml.{edge}_token_id": number}
    path = gguf_files.write(tmp_path / "a.gguf", metadata | {f"tokenizer.ggml.add_{edge}_token": True})
    size = len(gguf_files.TOKENS)
    assert f"tokenizer.ggml.{edge}_token_id is {number!r}, which is not one of its {size} tokens" in refusal(path).what
    assert gguf_metadata.problems(gguf_files.write(tmp_path / "b.gguf", metadata)) == []
