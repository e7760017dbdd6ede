"""The quick reading of a GGUF file gives what gguf's own does."""

from pathlib import Path

import gguf
import numpy as np
from transformers import modeling_gguf_pytorch_utils as loader

from pipeline.checkpoint.gguf_reader import read_once


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

    def contents() -> tuple[dict[str, list[object]], list[tuple[str, list[float]]]]:
        reader = gguf.GGUFReader(path)
        fields = {name: loader.read_field(reader, name) for name in reader.fields}
        return fields, [(tensor.name, tensor.data.ravel().tolist()) for tensor in reader.tensors]

    original = contents()
    with read_once():
        assert contents() == original
    assert original[0]["tokenizer.ggml.tokens"] == ["a", "", "naïve 東京", "Ġthe"]
