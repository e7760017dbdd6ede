"""A checkpoint whose tensors are not those of its configuration is refused, and its tensors are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Llama4Config, Llama4ForConditionalGeneration

from pipeline.checkpoint import loading
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
Tensors = dict[str, torch.Tensor]


def saved(folder: Path, architecture: str = "llama", **config: Any) -> Path:
    """A checkpoint with random weights."""
    model = Model(source=Source.random, architecture=architecture, config=SIZES | config)
    loading.load(model, folder).save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[Tensors], object], **config: Any) -> None:
    """Change the tensors in the file, and keys of config.json."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def load(folder: Path) -> torch.nn.Module:
    """Load the folder, as wrap and verify do."""
    return loading.load(Model(source=Source.local, path=str(folder)), folder)


def problems(folder: Path) -> tuple[Problem, ...]:
    """What is wrong with the folder."""
    with pytest.raises(UserError) as error:
        load(folder)
    return error.value.problems


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("lm_head.weight", False),
        ("model.embed_tokens.weight", True),
        ("model.layers.1.self_attn.k_proj.weight", False),
        ("model.layers.1.self_attn.k_proj.weight", True),
        ("model.norm.weight", False),
    ],
)
def test_missing_tensors(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, tied: bool) -> None:
    """transformers would fill them with random numbers, equal ones in wrap and verify; its table is not shown."""
    saved(tmp_path, tie_word_embeddings=tied)
    change(tmp_path, lambda tensors: tensors.pop(name))
    (problem,) = problems(tmp_path)
    assert f"1 tensor is missing from the checkpoint: {name}" in problem.what
    assert problem.where == str(tmp_path)
    assert ("tie_word_embeddings" in problem.fix) == (name == "lm_head.weight")
    assert "REPORT" not in capfd.readouterr().err


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    """A whole layer: three names and how many more."""
    saved(tmp_path)

    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    change(tmp_path, drop)
    (problem,) = problems(tmp_path)
    assert "9 tensors are missing" in problem.what
    assert "and 6 more" in problem.what


def test_biases_without_a_place(tmp_path: Path) -> None:
    """Stored biases that config.json does not ask for would be left out of the original too."""
    saved(tmp_path, attention_bias=True)
    change(tmp_path, lambda tensors: None, attention_bias=False)
    (problem,) = problems(tmp_path)
    assert (
        "8 tensors of the checkpoint have no place in the model: model.layers.0.self_attn.k_proj.bias" in problem.what
    )
    assert "attention_bias=False" in problem.fix


def test_layers_without_a_place(tmp_path: Path) -> None:
    """num_hidden_layers below what the file holds."""
    saved(tmp_path)
    change(tmp_path, lambda tensors: None, num_hidden_layers=1)
    (problem,) = problems(tmp_path)
    assert "9 tensors of the checkpoint have no place in the model: model.layers.1." in problem.what
    assert "num_hidden_layers=1" in problem.fix


def test_an_unknown_tensor(tmp_path: Path) -> None:
    """One that no key of config.json would give a place."""
    saved(tmp_path)
    change(tmp_path, lambda tensors: tensors.update({"v_head.weight": torch.zeros(3)}))
    assert "v_head.weight" in problems(tmp_path)[0].what


def test_other_shapes(tmp_path: Path) -> None:
    """Each tensor with both shapes and the key to correct; not the random tensors that fill their place."""
    saved(tmp_path, tie_word_embeddings=False)
    change(tmp_path, lambda tensors: None, vocab_size=66)
    found = problems(tmp_path)
    assert [problem.what for problem in found] == [
        f"{name} has the shape [64, 32] in the checkpoint and [66, 32] by config.json"
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    ]
    assert all("vocab_size=66" in problem.fix for problem in found)


def test_several_kinds_come_at_once(tmp_path: Path) -> None:
    """Missing, of another shape and without a place: three problems."""
    saved(tmp_path, attention_bias=True, tie_word_embeddings=False)

    def damage(tensors: Tensors) -> None:
        del tensors["model.norm.weight"]
        tensors["lm_head.weight"] = torch.zeros(65, 32)

    change(tmp_path, damage, attention_bias=False)
    assert len(problems(tmp_path)) == 3


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_stored_beside_tied_embeddings(tmp_path: Path, equal: bool) -> None:
    """Equal to the embedding it is one tensor; else config.json or the file is wrong."""
    saved(tmp_path, tie_word_embeddings=True)
    change(
        tmp_path,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + (0 if equal else 1)}),
    )
    if equal:
        model = load(tmp_path)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return
    (problem,) = problems(tmp_path)
    assert "lm_head.weight of the checkpoint differs from" in problem.what
    assert "tie_word_embeddings to false" in problem.fix


@pytest.mark.parametrize(
    ("architecture", "leftovers"),
    [
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.masked_bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"]),
        ("gpt_bigcode", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
    ],
)
def test_buffers_of_earlier_versions_are_ignored(tmp_path: Path, architecture: str, leftovers: list[str]) -> None:
    """Masks and frequencies that a checkpoint of an earlier transformers holds for each layer."""
    saved(tmp_path, architecture)
    before = [parameter.clone() for parameter in load(tmp_path).parameters()]
    change(tmp_path, lambda tensors: tensors.update({name: torch.ones(1) for name in leftovers}))
    assert all(map(torch.equal, before, load(tmp_path).parameters()))


TEXT = SIZES | {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "pad_token_id": 0}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vision_output_dim": 16,
    "projector_input_dim": 16,
    "projector_output_dim": 16,
}


def test_the_text_model_of_a_checkpoint_for_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its other parts are named in a warning; a tensor too many in its own part is still a problem."""
    config = Llama4Config(text_config=TEXT, vision_config=VISION)
    Llama4ForConditionalGeneration(config).save_pretrained(tmp_path)
    load(tmp_path)
    assert "without multi_modal_projector, vision_model" in capsys.readouterr().err
    extra = "language_model.model.layers.0.self_attn.q_proj.bias"
    change(tmp_path, lambda tensors: tensors.update({extra: torch.ones(32)}))
    (problem,) = problems(tmp_path)
    assert "layers.0.self_attn.q_proj.bias" in problem.what
    assert "vision" not in problem.what
