"""origin: what each source is called, for transformers and in messages."""

from pathlib import Path

import pytest

from pipeline.checkpoint.origin import config_file, display_name, origin_of, pretrained_arguments
from pipeline.core.schema import Model, Source

HUB = Model(source=Source.hub, id="someone/tiny", revision="abc")
RANDOM = Model(source=Source.random, architecture="llama")


@pytest.mark.parametrize("trusted", [False, True])
def test_a_folder_and_a_file_are_what_the_link_leads_to(tmp_path: Path, trusted: bool) -> None:
    """Not the link: its folder is the point's. Only a folder has a config.json."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.gguf").touch()
    for source, name, config in (
        (Source.local, "folder", "folder/config.json"),
        (Source.gguf, "file.gguf", "file.gguf"),
    ):
        model, link = Model(source=source, path=name, trust_remote_code=trusted), tmp_path / f"to_{name}"
        link.symlink_to(tmp_path / name)
        assert pretrained_arguments(model, link) == (str(tmp_path / name), {"trust_remote_code": trusted})
        assert origin_of(model, link) == str(tmp_path / name)
        assert config_file(model, link) == str(tmp_path / config)
        assert display_name(model) == name


def test_the_hub_and_random_weights_have_no_link() -> None:
    """A repository at its revision; the config keys that random weights are made of."""
    link = Path("nowhere")
    assert pretrained_arguments(HUB, link) == ("someone/tiny", {"revision": "abc", "trust_remote_code": False})
    assert [origin_of(HUB, link), config_file(HUB, link)] == ["someone/tiny@abc"] * 2
    assert pretrained_arguments(RANDOM, link) == ("", {})
    assert config_file(RANDOM, link) == "model.config"
    assert [display_name(HUB), display_name(RANDOM)] == ["someone/tiny", "llama"]
