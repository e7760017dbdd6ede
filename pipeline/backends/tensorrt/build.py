"""Build a TensorRT plan of the portable graph: parse, restore what the parser drops, lint, build; write engine.json.

A plan cannot be read without the GPU that it was built for, so engine.json describes it: inputs and outputs (types,
shapes, which output shares its memory with which input), the shapes of every profile, TensorRT's version, the targets,
and the build's costs: seconds, peak memory, bytes of plan, weights and activations.
"""

import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import onnx
from tqdm import tqdm

from pipeline.backends.tensorrt import network
from pipeline.backends.tensorrt.lint import lint
from pipeline.backends.tensorrt.network import Parsed
from pipeline.core import hardware, layout, machine
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_path
from pipeline.core.profiles import InputShapes, Profiles
from pipeline.core.schema import Engine
from pipeline.core.tables.dtypes import BY_ONNX
from pipeline.graph import onnx_file
from pipeline.runtime import engine_info, tensorrt_api
from pipeline.runtime.tensorrt_api import TensorRT

INT64 = onnx.TensorProto.INT64
# pattern of TensorRT's message, what it means, how to fix it
ERROR_HINTS = (
    (
        r"out of memory|OutOfMemory|could not find any implementation|insufficient memory|bad_alloc|alloc.* failed",
        "it ran out of memory, or no kernel fits into engine.workspace_gb",
        "a larger engine.workspace_gb (null for no limit), smaller profile.*.max, or a machine with more memory",
    ),
    (
        r"not supported by a dedicated kernel|is_decomposable",
        "no kernel computes this attention, and it may not be decomposed",
        "precision=fp16 or precision=bf16, or another architecture",
    ),
    (
        r"optimization profile|kMIN|kOPT|kMAX|out of bounds of profile",
        "a profile does not fit the network",
        "profile.*: min <= opt <= max, inside axes; then dvc repro",
    ),
    (
        r"cudaError|CUDA driver|no CUDA-capable device|CUDA initialization failure",
        "it needs a GPU with its driver to build",
        "build on the machine that has the GPU, or engine=tensorrt_rtx, which builds without one",
    ),
)


def build(model: Path, engine: Engine, profiles: Profiles, contract: GraphContract, out: Path) -> None:
    """Write `out`/model.plan and `out`/engine.json.

    model: folder of the portable graph. Raises UserError when TensorRT is missing or too old, does not accept a node or
    does not build for a target, and when the parsed network differs from the graph (a problem for each finding).
    """
    start = time.perf_counter()
    api = tensorrt_api.load(engine.kind)
    targets = _targets(api, engine)
    parsed = network.parse(api, model)
    findings = lint(parsed, contract)
    if findings:
        fix = "report this fault of TensorRT's parser or of kvforge; engine=onnxruntime_cpu does not have it"
        raise UserError([Problem(finding, "TensorRT's network, after parsing", fix) for finding in findings])
    shapes = profiles.shapes(contract)
    plan = _serialize(parsed, _config(parsed, engine, targets, shapes))
    size = int(plan.nbytes)
    with (out / layout.PLAN).open("wb") as file:
        file.write(memoryview(plan))
    del plan
    engine_info.write(
        out,
        engine.kind,
        profiles,
        contract,
        version=api.version,
        targets=list(targets) or sorted({capability for _, capability in hardware.gpus()}),
        attention={
            "form": parsed.form,
            "fused": sorted(name for name, a in parsed.attentions.items() if not a.decomposable),
            "decomposable": sorted(name for name, a in parsed.attentions.items() if a.decomposable),
        },
        inputs=[_described(api, parsed.network.get_input(i)) for i in range(parsed.network.num_inputs)],
        outputs=[_described(api, parsed.network.get_output(i), contract) for i in range(parsed.network.num_outputs)],
        shapes=shapes,
        build={
            "seconds": round(time.perf_counter() - start, 1),
            "peak_mb": round(machine.peak_memory() / 2**20),
            "plan_bytes": size,
            "weights_bytes": weights_bytes(parsed.proto),
            "activation_bytes": api.log.max_logged("Total Activation Memory"),
        },
    )


def weights_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all constants that a graph's nodes read, except shapes and axes."""
    read = onnx_file.names_read(proto.graph)
    return sum(
        _bytes(tensor) for tensor in proto.graph.initializer if tensor.name in read and tensor.data_type != INT64
    )


def _bytes(tensor: onnx.TensorProto) -> int:
    count: int = math.prod(tensor.dims)
    return (count * BY_ONNX[tensor.data_type].bits + 7) // 8


def _targets(api: TensorRT, engine: Engine) -> dict[str, Any]:
    """The targets in the configuration, "8.9" -> its enum; none where the GPU of this machine is the target."""
    known = api.targets
    wanted = [f"{target:.1f}" for target in engine.targets]
    unknown = [target for target in wanted if target not in known]
    if unknown:
        what = f"{api.product} does not build for compute capability {', '.join(unknown)}"
        raise UserError(Problem(what, "engine.targets", f"choose from {', '.join(known)}"))
    return {target: known[target] for target in wanted}


def _config(parsed: Parsed, engine: Engine, targets: dict[str, Any], shapes: dict[str, dict[str, InputShapes]]) -> Any:
    trt, builder = parsed.api.trt, parsed.builder
    config = builder.create_builder_config()
    if engine.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(engine.workspace_gb * 2**30))
    if targets:
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets.values()):
            config.set_compute_capability(target, i)
    for name, inputs in shapes.items():
        chosen = builder.create_optimization_profile()
        for tensor, (smallest, tuned, largest) in inputs.items():
            chosen.set_shape(tensor, smallest, tuned, largest)
        if config.add_optimization_profile(chosen) == -1:
            raise _failed(parsed, f"profile.{name}")
    return config


def _serialize(parsed: Parsed, config: Any) -> Any:
    api = parsed.api
    monitor = _progress(api.trt)
    if monitor is not None:
        config.progress_monitor = monitor
    cache = tensorrt_api.user_cache_file(api, "timings") if api.timing_cache else None
    if cache is not None:
        known = cache.read_bytes() if cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    config.progress_monitor = None
    if plan is None:
        raise _failed(parsed, "engine")
    if cache is not None:
        with atomic_path(cache) as path:
            path.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return plan


def _failed(parsed: Parsed, where: str) -> UserError:
    return UserError(explain(parsed.api.log.errors, parsed.api.product, where))


def explain(messages: list[str], product: str, where: str) -> Problem:
    """Turn the errors that TensorRT logged into a problem that quotes the last one with a known meaning."""
    for text in reversed(messages):
        for pattern, what, fix in ERROR_HINTS:
            if re.search(pattern, text, re.I):
                return Problem(f"{product} did not build: {what}. It says: {_short(text)}", where, fix)
    last = _short(messages[-1]) if messages else "nothing"
    return Problem(
        f"{product} did not build. It says: {last}", where, "choose another engine or precision, or report this"
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:400]


def _described(api: TensorRT, raw: Any, contract: GraphContract | None = None) -> dict[str, Any]:
    """Describe a tensor of the network for engine.json; an output with the input that it shares its memory with."""
    row = {"name": raw.name, "dtype": api.numpy_type(raw.dtype), "shape": list(raw.shape)}
    if contract is None:
        return row
    past = contract.aliases.get(raw.name)
    return row | {"alias": None if past in contract.rules else past}


def _progress(trt: Any) -> Any:
    """A progress bar of the outermost phase, labelled with the running one; None where TensorRT reports no progress."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module's type is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, Any] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.bars[phase] = tqdm(total=steps, desc=phase, unit="step", leave=False, file=sys.stderr)
            for bar in self.bars.values():
                bar.set_postfix_str(phase, refresh=False)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.bars:
                self.bars[phase].update(step + 1 - self.bars[phase].n)
            return True

        def phase_finish(self, phase: str) -> None:
            if phase in self.bars:
                self.bars.pop(phase).close()

    return Monitor()
