"""Where the folder of a quantized checkpoint is, by its config.json alone. Imports no torch."""

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from pipeline.core.files import read_json
from pipeline.packed.methods import quantization

CONFIG = "config.json"


def of_link(link: Path) -> Path | None:
    """The quantized folder that a point's `checkpoint` leads to, or that of the hub's repository that it names; None
    for any other checkpoint."""
    if link.is_dir():
        folder = link.resolve()
        return folder if quantization(read_json(folder / CONFIG)) else None
    with link.open("rb") as file:
        kind, _, name = file.read(1024).decode(errors="replace").strip().partition(" ")
    if kind != "hub":
        return None
    repository, _, revision = name.rpartition("@")
    config = Path(hf_hub_download(repository, CONFIG, revision=revision))
    return of_repository(repository, revision) if quantization(read_json(config)) else None


def of_repository(name: str, revision: str | None) -> Path:
    """The folder of a quantized repository of the hub, downloaded."""
    return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
