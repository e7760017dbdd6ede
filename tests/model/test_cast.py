"""What stays fp32 in a model of 16 bits, from the cast to the engine."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.olmo2.modeling_olmo2 import Olmo2PreTrainedModel

from pipeline import engine, export, wrap
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source, section
from pipeline.model import positions
from pipeline.model.cast import cast
from pipeline.proof.artifacts import artifacts
from pipeline.proof.cases import Case
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.proof.results import Limits
from pipeline.wrapping import program
from tests.support.architectures import ARCHITECTURES, SMALL
from tests.support.gates import held
from tests.support.points import build, composed, write_point

EXPERTS = {"num_experts": 4, "num_local_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2}
KEEPING = {  # name -> tensors that the model lists to stay fp32: in fp16, in bf16
    "afmoe": ("q_norm", None),
    "gpt_oss": ("input_layernorm", None),
    "ernie4_5_moe": ("gate.weight", "gate.weight"),
}
LONG = 8192
HALF_TYPES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *KEEPING])
def test_cast_is_what_transformers_loads(architecture: str, tmp_path: Path) -> None:
    """Every parameter and buffer has the type and the numbers of `from_pretrained(dtype=...)`."""
    config = ARCHITECTURES.get(architecture, SMALL | EXPERTS | {"moe_intermediate_size": 16})
    plain = loading.load(Model(source=Source.random, architecture=architecture, config=config), None)
    plain.save_pretrained(tmp_path)
    for dtype, kept in zip(HALF_TYPES, KEEPING.get(architecture, (None, None)), strict=True):
        model = loading.load(Model(source=Source.local, path=str(tmp_path)), tmp_path)
        ours, theirs = tensors(cast(model, dtype)), tensors(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype))
        assert ours.keys() == theirs.keys()
        assert {n: t.dtype for n, t in ours.items()} == {n: t.dtype for n, t in theirs.items()}
        assert [n for n, t in ours.items() if not torch.equal(t, theirs[n])] == []
        assert kept is None or any(kept in n and t.dtype == torch.float32 for n, t in ours.items())
        original = tensors(plain)
        assert all(torch.equal(t, original[n]) for n, t in ours.items() if n.endswith("inv_freq"))


def tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_tied_weights_stay_tied() -> None:
    """The head of a model that ties it is the embedding."""
    config = SMALL | {"tie_word_embeddings": True}
    model = loading.load(Model(source=Source.random, architecture="llama", config=config), None)
    cast(model, torch.float16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_model_of_mixed_types_runs_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms in fp32 in a model of fp16: exported by the model's own casts, and right in every artifact."""
    monkeypatch.setattr(Olmo2PreTrainedModel, "_keep_in_fp32_modules", ["norm"])
    model = {"source": "random", "architecture": "olmo2", "config": SMALL | {"num_hidden_layers": 1}, "seed": 0}
    contract = build(tmp_path, ["precision=fp16"], model=model)
    graph = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False)
    norms = {t.data_type for t in graph.graph.initializer if "norm" in t.name}
    assert norms == {onnx.TensorProto.FLOAT}
    limits = held(logits_error=0.05, kl=2e-4, cache_error=0.05)
    assert failures(tmp_path, contract, [Case("ragged chunks", (3, 0, 17), ((4, 7, 2), (1, 5, 6)))], limits) == {}


def failures(point: Path, contract: GraphContract, cases: Sequence[Case], limits: Limits) -> dict[str, list[str]]:
    """What each artifact's contract and cases miss; those without are left out."""
    original = loading.load(section(Model, point), point / layout.CHECKPOINT)
    positions.freeze(original, contract.cache_size)
    answers = ReferenceAnswers(Reference(original), contract, seed=0)
    found: dict[str, list[str]] = {}
    for artifact in artifacts(point, contract):
        if (point / artifact.name).exists() and artifact.why_unavailable() is None:
            runtime = artifact.open()
            results = {case.name: run_case(case, runtime, answers, limits) for case in cases}
            missed = artifact.findings() + [f"{name}: {f}" for name, r in results.items() for f in r.failures]
            found |= {artifact.name: missed} if missed else {}
    return found


ENDS = (
    Case("last slot", (LONG - 2,), ((1,), (1,))),
    Case("last slots in one chunk", (LONG - 3,), ((3,),)),
    Case("last slots beside the first", (LONG - 3, 0), ((1, 2), (1, 1))),
)
# Twice what is measured with right frequencies. Those of 16 bits are off by 0.23, 4e-3 and 1.1 in fp16, 0.66, 0.03 and
# 2.8 in bf16.
END_GATES = {
    "fp16": held(logits_error=6e-3, kl=1e-6, cache_error=7e-3),
    "bf16": held(logits_error=0.05, kl=1e-4, cache_error=0.05),
}


def cast_whole(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The planted fault: rotary frequencies follow the rest of the model into 16 bits."""
    return model.to(dtype)


def long_point(folder: Path, precision: str, last: ModuleType) -> GraphContract:
    """A tiny Llama with 8,192 slots, built up to a stage; smaller weights than in other tests, so that what 16 bits
    round off is small beside a wrong angle."""
    config = SMALL | {"num_hidden_layers": 2, "max_position_embeddings": LONG, "initializer_range": 0.1}
    model = {"source": "random", "architecture": "llama", "config": config, "seed": 0}
    overrides = [f"precision={precision}", f"cache.size={LONG}"]
    return build(folder, [*overrides, *(["engine=tensorrt_rtx"] if precision == "bf16" else [])], last, model=model)


@pytest.mark.parametrize(("precision", "last"), [pytest.param("fp16", engine, marks=pytest.mark.slow), ("bf16", wrap)])
def test_the_end_of_a_long_cache(precision: str, last: ModuleType, tmp_path: Path) -> None:
    """Slots 8,189 to 8,191 pass narrow gates, in fp16 in every artifact, in bf16 in the program."""
    contract = long_point(tmp_path, precision, last)
    assert failures(tmp_path, contract, ENDS, END_GATES[precision]) == {}


@pytest.mark.parametrize(("precision", "last"), [pytest.param("fp16", export, marks=pytest.mark.slow), ("bf16", wrap)])
def test_frequencies_of_16_bits_are_caught(
    precision: str, last: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gates are missed in logits and cache, and the contract names the angles."""
    monkeypatch.setattr(program, "cast", cast_whole)
    monkeypatch.setattr(positions, "wrong_frequencies", lambda *_: [])
    found = failures(tmp_path, long_point(tmp_path, precision, last), ENDS, END_GATES[precision])
    assert list(found) == ([layout.WRAPPED] if last is wrap else [layout.WRAPPED, layout.ONNX])
    for missed in found.values():
        text = "\n".join(missed)
        assert "rotary angles are computed in 16 bits" in text
        assert "last slot: logits_error is" in text
        assert "last slots beside the first: cache_error is" in text


def test_wrap_refuses_frequencies_of_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they cast again one day, no wrong model would be made."""
    monkeypatch.setattr(program, "cast", cast_whole)
    write_point(tmp_path, composed(["experiment=tiny", "precision=fp16"]))
    with contextlib.chdir(tmp_path), pytest.raises(UserError, match=r"rotary frequencies \(float16\)"):
        wrap.main()


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("architecture", ["apertus", "fuyu"])
def test_one_type_of_16_bits_runs_through(architecture: str, dtype: torch.dtype) -> None:
    """Where the code names bf16 for an activation's numbers, and where a part has a configuration of its own."""
    config = SMALL | {"hidden_act": "xielu"} if architecture == "apertus" else {"text_config": SMALL}
    random = Model(source=Source.random, architecture=architecture, config=config)
    model = cast(loading.load(random, None), dtype)
    with torch.no_grad():
        logits = model(input_ids=torch.ones(1, 3, dtype=torch.int64)).logits
    assert logits.dtype == dtype
    assert logits.isfinite().all()
