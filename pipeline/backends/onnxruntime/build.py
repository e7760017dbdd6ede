"""Build the engine for ONNX Runtime: the portable graph in the form that its provider computes best, and engine.json.

For the CPU the graph is lowered to ONNX Runtime's own operators, for CUDA all but attention: there the standard one
reads the used part of the cache (flash attention, 16 bits), while GroupQueryAttention's CUDA kernel does not support
ragged chunks. For clients (engine=onnxruntime_client) the lowered graph gets their inputs, and genai_config.json is
beside it. For the TensorRT provider it stays standard, with masks instead of attention's lengths.
"""

import shutil
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from pipeline.backends.onnxruntime import genai_config
from pipeline.backends.onnxruntime.client import QUERY_LENGTHS, to_clients
from pipeline.backends.onnxruntime.lower import lower
from pipeline.backends.tensorrt import prepare
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError, first_line
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Engine
from pipeline.core.tables.engines import CPU, TENSORRT, EngineKind
from pipeline.graph import onnx_file
from pipeline.graph.editor import dimension
from pipeline.runtime import engine_info
from pipeline.runtime.open import open_engine, why_unavailable

OWN_WEIGHTS = {"MatMulNBits", "MoE", "QMoE"}  # operators that read weights in an order of their own


def build(model: Path, engine: Engine, profiles: Profiles, contract: GraphContract, out: Path) -> None:
    """Write model and engine.json to `out` and load them once, so that an engine that does not load fails here; an
    engine for a GPU is loaded only on a machine with one."""
    lowered, for_clients = onnx_file.load(model), engine.kind is EngineKind.onnxruntime_client
    if engine.provider == TENSORRT:
        prepare.prepare(lowered, lengths=False)  # its parser drops the lengths of attention
    elif engine.lower or for_clients:
        windows = lower(
            lowered,
            int8_activations=engine.int8_activations,
            cuda=engine.provider != CPU,
            window_cache=engine.window_cache,
        )
        slots = {str(value.name): dimension(value, 2) for value in lowered.graph.inputs if value.name in windows}
        contract = contract.narrowed(windows, slots)
        if engine.window_cache and not windows:
            print(f"engine.window_cache has no effect: no layer's window is shorter than {contract.cache_size} tokens")
    if for_clients:
        contract = to_clients(lowered, contract)
        genai_config.write(out, contract, engine.threads)
    if any(node.op_type in OWN_WEIGHTS for node in lowered.graph):
        onnx_file.save(lowered, out)
    else:  # the same bytes as before, which DVC's cache then stores once
        ir.save(lowered, out / layout.MODEL)
        shutil.copyfile(model / layout.DATA, out / layout.DATA)
    engine_info.write(
        out,
        engine.kind,
        profiles,
        contract,
        provider=engine.provider,
        provider_options=shapes(profiles, contract) if engine.provider == TENSORRT else {},
        optimization=engine.optimization.value,
        threads=engine.threads,
        lower=engine.lower or for_clients,
        int8_activations=engine.int8_activations,
        onnxruntime=onnxruntime.__version__,
        needs=needed(lowered),
    )
    if why_unavailable(out) is not None:
        return
    try:
        open_engine(out)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):  # it raises classes of its own for every failure
            raise
        raise UserError(
            Problem(
                f"{engine.kind.value} does not load the model: {first_line(error)}",
                "engine",
                "choose another precision or engine; the line above names the operator",
            )
        ) from error


def needed(lowered: ir.Model) -> str:
    """The oldest version of ONNX Runtime that computes this graph correctly."""
    for node in lowered.graph:
        if node.op_type == "GroupQueryAttention" and len(node.inputs) > QUERY_LENGTHS:
            return "1.32"
    return "1.28"  # 1.25 to 1.27 compute a prompt's second chunk wrongly, older ones have no TensorScatter


def shapes(profiles: Profiles, contract: GraphContract) -> dict[str, str]:
    """Options of the TensorRT provider: one profile over all of ours, tuned for decode; "name:1x1,other:1x1" each."""
    named = profiles.shapes(contract)
    ends = {
        name: (min(p[name][0] for p in named.values()), tuned, max(p[name][2] for p in named.values()))
        for name, (_, tuned, _) in named["decode"].items()
    }
    return {
        f"trt_profile_{end}_shapes": ",".join(f"{n}:{'x'.join(map(str, sizes[i]))}" for n, sizes in ends.items())
        for i, end in enumerate(("min", "opt", "max"))
    }
