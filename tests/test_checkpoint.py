"""The sources of a model. A GGUF file is loaded for real in test_smollm2.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, layout
from pipeline.errors import UserError
from pipeline.sources import write_link
from pipeline.spec import Model, Source
from tests.points import ROOT

CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 40,
}
RANDOM = Model(source=Source.random, architecture="llama", config=CONFIG, seed=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder in transformers' own form."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.load(RANDOM, folder).save_pretrained(folder)
    return folder


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.flatten() for p in model.parameters()])


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    """The same seed gives the same weights, another one others; no weight is left at 1 or 0; PyTorch's own random
    state is not touched."""
    state = torch.random.get_rng_state()
    one, again = (checkpoint.load(RANDOM, tmp_path) for _ in range(2))
    other = checkpoint.load(Model(source=Source.random, architecture="llama", config=CONFIG, seed=4), tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    assert all(p.unique().numel() > 1 for p in one.parameters())


def test_local_folder(saved: Path, tmp_path: Path) -> None:
    """A folder that save_pretrained wrote, through the point's link: fp32, eval mode, the same weights."""
    model = Model(source=Source.local, path=str(saved))
    write_link(model, tmp_path)
    loaded = checkpoint.load(model, tmp_path / layout.CHECKPOINT)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(weights(loaded), weights(checkpoint.load(RANDOM, tmp_path)))


def test_a_folder_that_is_no_causal_lm_is_the_users_mistake(saved: Path, tmp_path: Path) -> None:
    """The message says what transformers said, in one line."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match=r"does not load(.|\n)*complete checkpoint"):
        checkpoint.load(Model(source=Source.local, path=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("model", [
    Model(source=Source.random, architecture="no_such_thing"),
    Model(source=Source.random, architecture="vit"),
    Model(source=Source.random, architecture="llama", config={"hidden_size": 10, "num_attention_heads": 3}),
])  # fmt: skip
def test_impossible_random_models_are_the_users_mistake(model: Model, tmp_path: Path) -> None:
    """An unknown architecture, one that is no causal LM, sizes that do not go together."""
    with pytest.raises(UserError, match=r"does not load(.|\n)*model.architecture"):
        checkpoint.load(model, tmp_path)


def test_a_folder_without_a_tokenizer_gives_none(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can still be built; a warning says what that means."""
    model = Model(source=Source.local, path=str(saved))
    write_link(model, tmp_path)
    assert checkpoint.load_tokenizer(model, tmp_path / layout.CHECKPOINT) is None
    assert "answer tokens only" in capsys.readouterr().err


HUB = """
from pathlib import Path
from pipeline import checkpoint
from pipeline.spec import Model, Source
model = Model(source=Source.hub, id="someone/tiny", revision="{revision}", trust_remote_code=True)
try:
    print(sum(p.numel() for p in checkpoint.load(model, Path("checkpoint")).parameters()))
except checkpoint.UserError as error:
    print(error)
"""


def test_hub_id_and_revision(saved: Path, tmp_path: Path) -> None:
    """Through a hub cache as huggingface_hub lays it out, offline: the revision asked for is the one that loads,
    another is the user's mistake, and trusted code is announced."""
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(saved)
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": ""}
    outputs = []
    for revision in ("a" * 40, "b" * 40):
        script = [sys.executable, "-c", HUB.format(revision=revision)]
        outputs.append(subprocess.run(script, env=env, cwd=tmp_path, capture_output=True, text=True, check=True))
    assert int(outputs[0].stdout) == sum(p.numel() for p in checkpoint.load(RANDOM, tmp_path).parameters())
    assert "code that came with someone/tiny is run" in outputs[0].stderr
    assert "someone/tiny does not load" in outputs[1].stdout
    assert "model.revision" in outputs[1].stdout
