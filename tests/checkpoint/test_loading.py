"""The sources of a model. A GGUF file is loaded for real in test_smollm2.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import dynamic_module_utils

from pipeline.checkpoint import loading
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source
from tests.support import packed
from tests.support.points import ROOT

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
    loading.load(RANDOM, folder).save_pretrained(folder)
    return folder


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.flatten() for p in model.parameters()])


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    """The same seed gives the same weights, another one others; no weight is left at 1 or 0; PyTorch's own random
    state is not touched."""
    state = torch.random.get_rng_state()
    one, again = (loading.load(RANDOM, tmp_path) for _ in range(2))
    other = loading.load(Model(source=Source.random, architecture="llama", config=CONFIG, seed=4), tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    assert all(p.unique().numel() > 1 for p in one.parameters())


def test_local_folder(saved: Path, tmp_path: Path) -> None:
    """A folder that save_pretrained wrote, through the point's link: fp32, eval mode, the same weights."""
    model = Model(source=Source.local, path=str(saved))
    write_link(model, tmp_path)
    loaded = loading.load(model, tmp_path / layout.CHECKPOINT)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(weights(loaded), weights(loading.load(RANDOM, tmp_path)))


@pytest.mark.parametrize("model", [
    Model(source=Source.random, architecture="no_such_thing"),
    Model(source=Source.random, architecture="vit"),
    Model(source=Source.random, architecture="llama", config={"hidden_size": 10, "num_attention_heads": 3}),
])  # fmt: skip
def test_impossible_random_models_are_the_users_mistake(model: Model, tmp_path: Path) -> None:
    """An unknown architecture, one that is no causal LM, sizes that do not go together."""
    with pytest.raises(UserError, match=r"where: model\.(architecture|config)"):
        loading.load(model, tmp_path)


HUB = """
import contextlib, io, json, sys
from pathlib import Path
from pipeline.checkpoint.loading import load
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.packed.folder import PackedFolder
from pipeline.packed.source import of_link
for revision in sys.argv[1]:
    model = Model(source=Source.hub, id="someone/tiny", revision=revision * 40, trust_remote_code=True)
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            answer = sum(p.numel() for p in load(model, Path("checkpoint")).parameters())
        except UserError as error:
            answer = str(error)
    if revision == "f":  # what stage quantize is given
        Path("checkpoint").write_text(f"hub someone/tiny@{revision * 40}")
        answer = [answer, sorted(PackedFolder(of_link(Path("checkpoint"))).layers)]
    print(json.dumps({"revision": revision, "answer": answer, "told": told.getvalue()}))
"""


@pytest.fixture(scope="module")
def hub(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What loading each revision of someone/tiny gives: offline, from a cache as huggingface_hub lays it out.

    a is the checkpoint, b is not there, c and d are adapters, e is damaged, f is quantized. In one process: importing
    transformers takes longest.
    """
    home = tmp_path_factory.mktemp("hub")
    snapshots = {name: home / "hub/models--someone--tiny/snapshots" / (name * 40) for name in "acdef"}
    for name in "cd":  # d has its base's config.json as well
        snapshots[name].mkdir(parents=True)
        (snapshots[name] / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base"}')
    shutil.copy(saved / "config.json", snapshots["d"])
    snapshots["a"].symlink_to(saved)
    shutil.copytree(saved, snapshots["e"])
    (snapshots["e"] / "generation_config.json").write_text("{broken")
    wide = CONFIG | {"hidden_size": 32, "intermediate_size": 32}
    folder = tmp_path_factory.mktemp("wide")
    loading.load(Model(source=Source.random, architecture="llama", config=wide), folder).save_pretrained(folder)
    packed.quantize_folder(folder, snapshots["f"], packed.gptq, {"quant_method": "gptq"})
    env = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": ""}
    script = [sys.executable, "-c", HUB, "abcdef"]
    done = subprocess.run(script, env=env, cwd=home, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["revision"]: row for row in rows}


def test_hub_id_and_revision(hub: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The revision asked for is the one that loads, another is the user's mistake, and trusted code is announced."""
    assert hub["a"]["answer"] == sum(p.numel() for p in loading.load(RANDOM, tmp_path).parameters())
    assert "code that came with someone/tiny is run" in hub["a"]["told"]
    assert "someone/tiny does not load" in hub["b"]["answer"]
    assert "model.revision" in hub["b"]["answer"]


def test_a_quantized_repository(hub: dict[str, dict[str, Any]]) -> None:
    """Its weights are unpacked, and the stage quantize finds them by the name that compose has left."""
    size, layers = hub["f"]["answer"]
    assert size == 2 * 40 * 32 + 7 * 32 * 32 + 3 * 32  # embedding and head, the layer, norms
    assert len(layers) == 7
    assert layers[0] == "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("revision", ["c", "d"])
def test_an_adapter_on_the_hub(hub: dict[str, dict[str, Any]], revision: str) -> None:
    """A repository that holds an adapter, and perhaps its base's config.json, is named as one."""
    assert "someone/tiny is an adapter of someone/base, not a model" in hub[revision]["answer"]


def test_a_damaged_generation_config_on_the_hub(hub: dict[str, dict[str, Any]]) -> None:
    """It is read before the weights; transformers would ignore it."""
    assert "generation_config.json is not valid JSON" in hub["e"]["answer"]


def copied(saved: Path, folder: Path, **config: Any) -> Path:
    """A copy of the checkpoint with more keys in its config.json."""
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | config))
    return folder


def problem(model: Model, link: Path) -> Problem:
    """The one problem of a model, found by what wrap does."""
    with pytest.raises(UserError) as error:  # noqa: PT012  # whichever step finds it
        config = loading.configuration(model, link)
        loading.empty_model(model, link, config)
        loading.load(model, link, config)
    (found,) = error.value.problems
    return found


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"vocab_size": 40.0}, "Field 'vocab_size' expected int, got float (value: 40.0)"),
        ({"num_attention_heads": 3}, "3"),
        ({"hidden_act": "nope"}, "does not know 'nope'"),
        ({"model_type": "nothing"}, "does not know the architecture 'nothing'"),
        ({"model_type": "t5"}, "'t5' is not a causal LM"),
        ({"model_type": "vit"}, "'vit' is not a causal LM"),
        ({"quantization_config": {"quant_method": "hqq"}}, "weights are quantized by hqq"),
    ],
)
def test_a_mistake_in_config_json(saved: Path, tmp_path: Path, config: dict[str, Any], says: str) -> None:
    """The field and its value, the architecture, the method: found without reading a weight."""
    folder = copied(saved, tmp_path, **config)
    found = problem(Model(source=Source.local, path=str(folder)), folder)
    assert says in found.what
    assert found.where == str(folder / "config.json")


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_the_attention_that_was_trained_with_is_ignored(saved: Path, tmp_path: Path, key: str) -> None:
    """A package for it may be missing, and ours replaces it in any case."""
    folder = copied(saved, tmp_path, **{key: "flash_attention_2"})
    loaded = loading.load(Model(source=Source.local, path=str(folder)), folder)
    assert torch.equal(weights(loaded), weights(loading.load(RANDOM, tmp_path)))
    random = Model(source=Source.random, architecture="llama", config=CONFIG | {key: "flash_attention_2"}, seed=3)
    assert torch.equal(weights(loaded), weights(loading.load(random, tmp_path)))


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
{first}
class Config(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        {then}
"""


@pytest.mark.parametrize(
    ("name", "first", "then", "says"),
    [
        ("works", "", "", ""),
        ("needs", "import not_installed_at_all", "", "needs packages that are missing"),
        ("fails", "", "self.nothing.at_all", "AttributeError"),
    ],
)
def test_code_of_the_checkpoint(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str, then: str, says: str
) -> None:
    """It runs when it is trusted; packages that it needs and its own faults are no tracebacks."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    code = {"AutoConfig": f"{name}.Config", "AutoModelForCausalLM": f"{name}.Model"}
    folder = copied(saved, tmp_path / name, model_type="own", auto_map=code)
    (folder / f"{name}.py").write_text(CODE.format(first=first, then=then))
    model = Model(source=Source.local, path=str(folder), trust_remote_code=True)
    if not says:
        assert torch.equal(weights(loading.load(model, folder)), weights(loading.load(RANDOM, tmp_path)))
        refused = Model(source=Source.local, path=str(folder))
        assert "model.trust_remote_code=true" in problem(refused, folder).fix
    else:
        assert says in problem(model, folder).what


def test_an_empty_model_has_no_weights(saved: Path) -> None:
    """The same model on the meta device: what is refused by its structure costs no loading."""
    model = Model(source=Source.local, path=str(saved))
    empty = loading.empty_model(model, saved, loading.configuration(model, saved))
    assert all(parameter.is_meta for parameter in empty.parameters())
    shapes = [parameter.shape for parameter in empty.parameters()]
    assert shapes == [parameter.shape for parameter in loading.load(model, saved).parameters()]
