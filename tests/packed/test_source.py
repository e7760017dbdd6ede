"""Which checkpoints are quantized, and where their folders are."""

import json
from pathlib import Path

from pipeline.packed.source import CONFIG, of_link


def test_a_quantized_folder(tmp_path: Path) -> None:
    """The folder that the link leads to, by its config.json; a repository of the hub is in tests/checkpoint."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    link = tmp_path / "checkpoint"
    link.symlink_to(folder)
    assert of_link(link) == folder.resolve()


def test_other_checkpoints(tmp_path: Path) -> None:
    """A folder in fp32, random weights, a GGUF file."""
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / "random").write_text("random\n")
    (tmp_path / "gguf").write_bytes(b"GGUF\xff\xfe")
    assert [of_link(path) for path in (tmp_path, tmp_path / "random", tmp_path / "gguf")] == [None, None, None]
