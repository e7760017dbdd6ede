"""layout: which of two folders holds the model that the engine is built of."""

from pathlib import Path

from pipeline.core import layout


def test_the_final_model(tmp_path: Path) -> None:
    """quantized/ where it holds a model, not where it holds the report alone."""
    (tmp_path / layout.QUANTIZED).mkdir()
    (tmp_path / layout.QUANTIZED / layout.QUANTIZATION).write_text("{}")
    assert layout.final_model(tmp_path) == tmp_path / layout.SIMPLIFIED
    (tmp_path / layout.QUANTIZED / layout.MODEL).write_bytes(b"")
    assert layout.final_model(tmp_path) == tmp_path / layout.QUANTIZED
