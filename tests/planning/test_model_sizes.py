"""model_sizes against models with weights: what is counted on the meta device is what they have."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.checkpoint import loading
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.model import decoder
from pipeline.planning.model_sizes import model_sizes
from tests.support import gguf_files
from tests.support.architectures import ARCHITECTURES, SMALL

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def random(architecture: str, **changes: object) -> Model:
    """A model of random weights."""
    return Model(source=Source.random, architecture=architecture, config=SMALL | changes, seed=0)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("gemma3_text", {}), ("opt", {"ffn_dim": 48})],
)
def test_the_sizes_are_those_of_the_model(architecture: str, changes: dict[str, object]) -> None:
    """Parameters, tied ones once, tables, and the cache of a token."""
    model = random(architecture, **changes)
    sizes, loaded = model_sizes(model), loading.load(model, Path())
    assert sizes.parameters == sum(p.numel() for p in loaded.parameters())
    table, head = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert sizes.embedding == table.numel()
    assert sizes.head == (0 if head is table else head.numel())
    assert sizes.vocab == head.shape[0]
    shapes = decoder.cache_shapes(loaded, 8)
    assert 8 * sizes.cache_slot == sum(torch.Size(shape).numel() for layer in shapes for shape in layer.values())
    linear = [m for m in loaded.modules() if isinstance(m, nn.Linear) and m.weight is not head]
    assert sizes.linear >= sum(m.weight.numel() for m in linear)
    assert sizes.largest == max(m.weight.numel() for m in linear)


def test_a_mixture_of_experts() -> None:
    """Its experts are matrices too, all of a module in one weight; its router needs numbers in some of transformers'
    implementations, which the meta device has not."""
    sizes = model_sizes(random("qwen3_moe", **EXPERTS))
    assert sizes.largest == 4 * 2 * 24 * SMALL["hidden_size"]
    assert sizes.experts == SMALL["num_hidden_layers"] * 4 * 3 * 24 * SMALL["hidden_size"]
    assert sizes.cache_slot == 3 * 2 * 2 * 16


def test_windows() -> None:
    """Some layers have one, or all of a model whose configuration names no types of layers."""
    gemma = model_sizes(random("gemma3_text", **ARCHITECTURES["gemma3_text"]))
    assert gemma.window == ARCHITECTURES["gemma3_text"]["sliding_window"]
    assert 0 < gemma.windowed_slot < gemma.cache_slot
    mistral = model_sizes(random("mistral", **ARCHITECTURES["mistral"]))
    assert mistral.windowed_slot == mistral.cache_slot
    assert model_sizes(random("llama")).windowed_slot == 0


def test_a_gguf_file(tmp_path: Path) -> None:
    """Its metadata has the sizes; a tied embedding stands there once."""
    path = gguf_files.write(tmp_path / "model.gguf")
    sizes = model_sizes(Model(source=Source.gguf, path=str(path)))
    assert sizes.parameters == sum(tensor.size for tensor in gguf_files.tensors().values())
    assert sizes.head == 0
    assert sizes.stored_bytes == path.stat().st_size


def test_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    """The headers and config.json give nearly the same sizes; a matrix product's inputs do not show in them."""
    loading.load(random("llama", tie_word_embeddings=False), Path()).save_pretrained(tmp_path)
    local = Model(source=Source.local, path=str(tmp_path))
    (tmp_path / "modeling.py").write_text("raise SystemExit")
    sizes, trusted = model_sizes(local), model_sizes(replace(local, trust_remote_code=True))
    assert replace(trusted, hessians=0) == replace(sizes, hessians=0)
    assert trusted.hessians == pytest.approx(sizes.hessians, rel=0.2)


def test_code_of_its_own_on_the_hub() -> None:
    """It would have to be run: the sizes are not known, and nothing is asked of the hub."""
    with pytest.raises(UserError, match="has code of its own"):
        model_sizes(Model(source=Source.hub, id="some/model", revision="0" * 40, trust_remote_code=True))


def test_a_model_that_needs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the meta device for a reason of the model's own is no bug of ours."""

    def fail(*_: object) -> None:
        raise NotImplementedError("nonzero")

    monkeypatch.setattr(decoder, "cache_shapes", fail)
    with pytest.raises(UserError, match="are not known before its weights are loaded: nonzero"):
        model_sizes(random("llama"))
