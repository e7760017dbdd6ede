"""gguf_reader: GGUF files are read as gguf and transformers read them, in less time."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import modeling_gguf_pytorch_utils as loader

from pipeline.checkpoint import gguf_model
from pipeline.checkpoint.gguf_reader import fast_gguf_loading, fields, in_own_folder
from pipeline.core.patching import patched
from tests.support import gguf_files


def contents(path: Path) -> tuple[dict[str, list[object]], list[tuple[str, list[float]]]]:
    """All metadata and tensors, as transformers takes them from gguf's reader."""
    reader = gguf.GGUFReader(path)
    found = {name: loader.read_field(reader, name) for name in reader.fields}
    return found, [(tensor.name, tensor.data.ravel().tolist()) for tensor in reader.tensors]


def test_every_field_and_tensor_is_the_same(tmp_path: Path) -> None:
    """Numbers, texts, arrays of both, an empty text, characters of several bytes, and what is behind them."""
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("some.number", 7)
    writer.add_array("some.numbers", [1.5, -2.0])
    writer.add_array("more.numbers", [3, -4, 5])
    writer.add_array("some.flags", [True, False])
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "naïve 東京", "Ġthe"])
    writer.add_string("some.text", "é")
    writer.add_tensor("weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    original = contents(path)
    with fast_gguf_loading():
        assert contents(path) == original
        with fast_gguf_loading():
            assert contents(path) == original
    assert original[0]["tokenizer.ggml.tokens"] == ["a", "", "naïve 東京", "Ġthe"]
    assert fields(path)["tokenizer.ggml.tokens"].contents() == ["a", "", "naïve 東京", "Ġthe"]


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often gguf reads a number or text of a file, and builds a table of tensor names."""
    found: Counter[str] = Counter()

    def counting(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            found[name] += 1
            return plain(*args, **options)

        return count

    for owner, name in ((gguf.GGUFReader, "_get"), (gguf, "get_tensor_name_map")):
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))
    return found


def test_arrays_are_read_at_once_and_names_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not value by value, and not for each tensor; nothing is missed in the installed versions."""
    path = gguf_files.write(tmp_path / "a.gguf")
    asked = counted(monkeypatch)
    gguf.GGUFReader(path)
    plain = asked.pop("_get")
    with fast_gguf_loading():
        gguf.GGUFReader(path)
    assert plain - asked.pop("_get") > 2 * len(gguf_files.TOKENS)
    gguf_model.load(path)
    assert asked["get_tensor_name_map"] == 1


def test_a_model_loads_without_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In versions of the libraries whose names are others: the same weights, and a line for each on stderr."""
    path = gguf_files.write(tmp_path / "a.gguf")
    quick = gguf_model.load(path)
    assert "lacks" not in capsys.readouterr().err

    def renamed(owner: str, saves: str, **replacements: Any) -> Any:
        return patched(owner, saves, **{f"renamed_{name}": make for name, make in replacements.items()})

    monkeypatch.setattr("pipeline.checkpoint.gguf_reader.patched", renamed)
    plain = gguf_model.load(path)
    said = capsys.readouterr().err
    assert "renamed__get_field_parts" in said
    assert "renamed_get_tensor_name_map" in said
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, quick.state_dict()[name])


def test_a_link_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Nothing else is in it, and it is gone afterwards."""
    path = gguf_files.write(tmp_path / "a.gguf")
    (tmp_path / "tokenizer.json").write_text("{}")
    with in_own_folder(path) as where:
        folder = Path(where["pretrained_model_name_or_path"])
        assert [file.resolve() for file in folder.iterdir()] == [path]
        assert where["gguf_file"] == path.name
    assert not folder.exists()
