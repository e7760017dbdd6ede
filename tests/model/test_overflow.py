"""A model that leaves fp16's range is refused in wrap, by the first module that does."""

import contextlib
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pipeline import wrap
from pipeline.checkpoint import loading
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.model.cast import cast
from pipeline.model.overflow import first_non_finite
from tests.support.architectures import LAYERS, SMALL
from tests.support.points import composed, write_point

TOKENS = [1, 5, 9]
CONFIG = SMALL | LAYERS | {"sliding_window": 6}
BROKEN = "model.layers.1.post_feedforward_layernorm"


def overflowing(folder: Path) -> Path:
    """A Gemma 3 one of whose norms scales by 1e6: numbers around 1e6, which fp32 and bf16 hold and fp16 does not."""
    model = loading.load(Model(source=Source.random, architecture="gemma3_text", config=CONFIG), None)
    with torch.no_grad():
        model.get_submodule(BROKEN).weight.fill_(1e4)
        model.get_submodule(BROKEN).weight[0] = 60000.0
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> PreTrainedModel:
    """The original model in a folder."""
    return loading.load(Model(source=Source.local, path=str(folder)), folder)


def test_the_first_module_is_named(tmp_path: Path) -> None:
    """In fp16; in bf16 and fp32 all is finite."""
    folder = overflowing(tmp_path / "model")
    assert first_non_finite(cast(load(folder), torch.float16), TOKENS) == BROKEN
    assert first_non_finite(cast(load(folder), torch.bfloat16), TOKENS) is None
    assert first_non_finite(load(folder), TOKENS) is None


def test_a_nan_weight_is_named_by_its_module(tmp_path: Path) -> None:
    """One number of one matrix, in the middle of the model."""
    model = load(overflowing(tmp_path / "model"))
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[3, 2] = torch.nan
    assert first_non_finite(model, TOKENS) == "model.layers.1.mlp.up_proj"


def test_an_infinity_that_harms_nobody_is_no_overflow(tmp_path: Path) -> None:
    """Infinities inside, which a later module takes away again, as softmax does to a mask's: the logits are finite."""
    model = load(overflowing(tmp_path / "model"))
    model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(lambda *_: torch.tensor([[[-torch.inf]]]))
    model.get_submodule("model.layers.0.mlp").register_forward_hook(lambda _, args, __: args[0])
    assert first_non_finite(model, TOKENS) is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_wrap_refuses_it_in_fp16(tmp_path: Path, precision: str) -> None:
    """One problem with the module and what to choose instead; bf16 is built."""
    point = tmp_path / "point"
    model = {"source": "local", "path": str(overflowing(tmp_path / "model"))}
    write_point(
        point, composed(["experiment=tiny", "engine=tensorrt_rtx", f"precision={precision}"]) | {"model": model}
    )
    with contextlib.chdir(point):
        if precision == "bf16":
            wrap.main()
            return
        with pytest.raises(UserError, match=rf"the first non-finite output is that of {BROKEN}") as refused:
            wrap.main()
    (problem,) = refused.value.problems
    assert problem.where == "precision.compute"
    assert problem.fix == "choose precision=bf16 or precision=fp32"
