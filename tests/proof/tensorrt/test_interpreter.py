"""interpreter: TensorRT's networks compute what ONNX Runtime computes of the same graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from pipeline import quantize
from pipeline.backends.tensorrt.lint import lint
from pipeline.backends.tensorrt.network import layers, parse
from pipeline.core import layout
from pipeline.core.arrays import Floats
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Weights
from pipeline.proof.cases import Case, catalog
from pipeline.proof.compare import SENTINEL
from pipeline.proof.tensorrt.interpreter import Interpreter
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.session import Runtime
from pipeline.runtime.tensorrt_api import TensorRT
from tests.support.architectures import mostly_slow, random_model
from tests.support.points import build_once
from tests.support.tensorrt import contract_of, quantized, rtx

Point = tuple[Path, GraphContract]
USUAL = ("llama-fp32", "qwen3-fp16", "gemma3_text-fp16", "gpt2-fp16")
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3}


@pytest.fixture(
    scope="module",
    params=mostly_slow(USUAL, "llama-fp32"),
)
def usual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A portable model of one architecture with weights of the usual size, and its type."""
    architecture, _, compute = request.param.partition("-")
    folder = tmp_path_factory.mktemp(architecture)
    model = random_model(architecture, initializer_range=0.05 if architecture == "gpt2" else 0.02)
    build_once(folder, [f"precision={compute}", "engine=tensorrt_rtx"], quantize, model=model)
    return folder / layout.SIMPLIFIED, compute


def run(case: Case, runtime: Runtime) -> tuple[list[Floats], list[Floats]]:
    """A case's logits, of all rows that have a token, and what its caches hold at its end."""
    rng = np.random.default_rng(0)
    session = runtime.session(case.batch)
    for cache in session.caches:
        cache[...] = SENTINEL
        for row, used in enumerate(case.cached):
            cache[row, :, :used] = rng.standard_normal(cache[row, :, :used].shape)
    session.lengths[:] = case.cached
    vocab = int(runtime.contract.logits.shape[2])
    logits = []
    for step in case.steps:
        answer = session.step([rng.integers(0, vocab, count).tolist() for count in step])
        logits += [answer[row] for row, count in enumerate(step) if count]
    held = [cache[row, :, :end] for cache in session.caches for row, end in enumerate(session.lengths)]
    return logits, [part.astype(np.float32) for part in held]


def interpreted(folder: Path, api: TensorRT | None = None, **options: Any) -> Interpreter:
    """The network of a model's folder."""
    contract = contract_of(folder)
    return Interpreter(parse(api or rtx(), folder, **options), contract, Profiles.of_axes(contract))


def agree(folder: Path, network: Interpreter, tolerance: float) -> None:
    """Fail when any case differs from ONNX Runtime on the same file."""
    truth = OnnxRuntime(folder / layout.MODEL, network.contract, network.profiles)
    cases = catalog(network.profiles, network.contract.cache_size)
    assert {"prefill", "chunked prefill", "decode", "ragged decode", "ragged chunks"} <= {case.name for case in cases}
    for case in cases:
        for what, found, wanted in zip(("logits", "caches"), run(case, network), run(case, truth), strict=True):
            for a, b in zip(found, wanted, strict=True):
                # caches are larger than logits; a key's norm multiplies what was rounded before it
                limit = tolerance * max(1.0, 4 * float(np.abs(b).max(initial=0.0)))
                np.testing.assert_allclose(a, b, atol=limit, rtol=0, err_msg=f"{case.name}: {what}")


def test_networks_agree_with_onnx_runtime(usual: tuple[Path, str]) -> None:
    """Every case: prefill, chunks, decode, ragged batches, an idle row, the last slots."""
    folder, compute = usual
    agree(folder, interpreted(folder), TOLERANCE[compute])


def test_without_the_cure_they_disagree(usual: tuple[Path, str]) -> None:
    """As parsed, tokens that have a past see the wrong slots; a prompt in an empty cache is right by chance."""
    folder, _ = usual
    network = interpreted(folder, restore=False)
    truth = OnnxRuntime(folder / layout.MODEL, network.contract, network.profiles)
    wrong = {
        case.name
        for case in catalog(network.profiles, network.contract.cache_size)
        if max(np.abs(a - b).max() for a, b in zip(run(case, network)[0], run(case, truth)[0], strict=True)) > 0.01
    }
    assert wrong >= {"chunked prefill", "decode", "non-zero start", "last slot", "ragged decode", "ragged chunks"}
    assert not wrong & {"one token", "prefill", "longest prefill"}


def test_masks_instead_of_lengths(usual: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The form for versions whose attention takes no lengths computes the same."""
    folder, compute = usual
    api = rtx()
    monkeypatch.delattr(api.trt, "CausalMaskKind")  # TensorRT 10 has none of these
    for name in ("causal_kind", "key_value_lengths"):
        monkeypatch.delattr(api.trt.IAttention, name)
    assert not api.lengths
    network = interpreted(folder, api)
    agree(folder, network, TOLERANCE[compute])


@pytest.mark.parametrize("weights", [Weights.int8, Weights.int4])
def test_quantized_weights(tiny: Point, tmp_path: Path, weights: Weights) -> None:
    """Weights, embedding and head of 8 and 4 bits, all the same numbers as in the graph."""
    folder = quantized(tiny[0], tmp_path / "point", weights, symmetric=weights is Weights.int8)
    agree(folder, interpreted(folder), 1e-5)


@pytest.mark.parametrize("weights", [Weights.fp8, Weights.nvfp4])
def test_weights_of_small_floats(half: Point, tmp_path: Path, weights: Weights) -> None:
    """ONNX Runtime has no kernel for floats of 4 bits: it gets what ONNX's reference makes of them."""
    folder = quantized(half[0], tmp_path / "point", weights)
    network = interpreted(folder)
    kinds = {layer.get_output(0).dtype.name for layer in layers(network._parsed.api, network._parsed.network)}
    assert {"FP8", "FP4"} & kinds == ({"FP8"} if weights is Weights.fp8 else {"FP8", "FP4"})
    agree(plain(folder, tmp_path / "plain"), network, 0.02)  # logits up to 9.4, fp16


def plain(folder: Path, out: Path) -> Path:
    """A model whose DequantizeLinear nodes are the weights that they give."""
    model = onnx.load(folder / layout.MODEL)
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    outputs = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT16, None) for node in nodes]
    graph = helper.make_graph(nodes, "weights", [], outputs, model.graph.initializer)
    opsets = [helper.make_opsetid("", 24)]
    found = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets, ir_version=11)).run(None, {})
    for node, value in zip(nodes, found, strict=True):
        model.graph.node.remove(node)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float16), node.output[0]))
    out.mkdir()
    onnx.save(model, out / layout.MODEL)
    return out


@pytest.mark.slow
def test_softcap_and_sliding_window(window: Point) -> None:
    """Written out in products."""
    folder = window[0] / layout.SIMPLIFIED
    agree(folder, interpreted(folder), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["granite_swa", "minicpm3"])
def test_sinks_and_latents(architecture: str, tmp_path: Path) -> None:
    """Written out too, in fp16, as the graph has them."""
    model = random_model(architecture, initializer_range=0.02)
    contract = build_once(tmp_path, ["precision=fp16", "engine=tensorrt_rtx"], quantize, model=model)
    folder = tmp_path / layout.SIMPLIFIED
    assert lint(parse(rtx(), folder), contract) == []
    agree(folder, interpreted(folder), TOLERANCE["fp16"])


def test_bf16_is_computed_in_bf16(half: Point, tmp_path: Path) -> None:
    """ONNX Runtime has no kernels for it: compared with the network in fp16 of the same weights."""
    folder = tmp_path / "bf16"
    build_once(folder, ["precision=bf16", "engine=tensorrt_rtx"], quantize)
    case = Case("decode", (0, 0), ((6, 9), (1, 1), (1, 1)))
    network = interpreted(folder / layout.SIMPLIFIED)
    found, wanted = run(case, network)[0], run(case, interpreted(half[0] / layout.SIMPLIFIED))[0]
    worst = max(np.abs(a - b).max() for a, b in zip(found, wanted, strict=True))
    assert 0 < worst < 0.1 * np.abs(wanted).max()


def test_unknown_layers_are_refused(half: Point) -> None:
    """A layer that nobody has looked at must not pass as the identity."""
    parsed = parse(rtx(), half[0] / layout.SIMPLIFIED)
    parsed.network.add_non_zero(parsed.network.get_output(0))
    with pytest.raises(NotImplementedError, match="no interpretation of INonZeroLayer"):
        Interpreter(parsed, half[1], Profiles.of_axes(half[1]))
