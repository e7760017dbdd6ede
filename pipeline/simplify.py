"""Stage simplify: onnx/ -> simplified/, by onnxsim in a subprocess with a memory and a time limit.

onnxsim gets the graph without its large weights: they are inputs for it and become initializers again afterwards. So
their bytes are untouched, simplified/ has the data file of onnx/, and memory does not grow with the model
(SmolLM2-135M: 0.3 GB instead of 2.8 GB).
When onnxsim crashes or exceeds a limit, simplified/ holds the graph of onnx/ as it is; simplify.json says why.
"""

import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir

from pipeline.core import layout, machine, stage
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_folder, write_json
from pipeline.core.schema import Simplify, section
from pipeline.graph import onnx_file
from pipeline.graph.naming import inherited_modules, name_nodes
from pipeline.graph.rotary import fuse_rotary

# Address space that uses no memory: mapped files 0.11 GB, and 0.04 GB of stack and reserve for each thread, of which
# there may be one per processor. RLIMIT_AS counts it, a container's limit does not.
MAPPED, THREAD = 2**28, 2**26
# Runs onnxsim's command line within a limit of address space: the first argument, 0 for none. The process sets it
# itself, as code between fork and exec can hang where the parent has threads.
# onnxsim imports torch when that is there and needs nothing of it: 4.2 s of start, 1.4 without.
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.modules["torch"] = None
runpy.run_module("onnxsim", run_name="__main__")
"""


def detach_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Turn every externally stored initializer into a graph input; returns them for `attach_weights`."""
    weights = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    kept = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights)
    return weights


def attach_weights(model: onnx.ModelProto, weights: list[onnx.TensorProto]) -> None:
    """Undo `detach_weights` on a model that came from it."""
    names = {t.name for t in weights}
    inputs = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    used = onnx_file.names_read(model.graph)
    model.graph.initializer.extend(t for t in weights if t.name in used)


def check_passes(names: list[str]) -> None:
    """Raise UserError for names that are not passes of onnxsim, which would ignore them."""
    if not names:
        return
    command = [sys.executable, "-c", LIMITED, "0", "--list-default-optimizers"]
    passes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    unknown = [name for name in names if name not in passes]
    if unknown:
        near = {match for name in unknown for match in difflib.get_close_matches(name, passes)}
        fix = f"choose from: {', '.join(sorted(near or passes))}"
        raise UserError(Problem(f"onnxsim has no pass {', '.join(unknown)}", "simplify.skip", fix))


def onnxsim(source: Path, target: Path, options: Simplify) -> str | None:
    """Run onnxsim from file to file within the limits; return why it failed, or None."""
    limit, limited_by = memory_limit(options.memory_gb)
    command = [sys.executable, "-c", LIMITED, str(limit), str(source), str(target)]
    if options.skip:
        command += ["--skip-optimization", *options.skip]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=options.timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"onnxsim took longer than simplify.timeout_s={options.timeout_s:g}"
    if done.returncode or not target.exists():
        lines = done.stdout.strip().splitlines() or ["no output"]
        return f"onnxsim ended with {done.returncode} under {limited_by}: {lines[-1]}"
    return None


def memory_limit(wanted_gb: float, root: Path = machine.ROOT) -> tuple[int, str]:
    """Bytes of address space that onnxsim may use, and what sets that limit.

    The smallest of simplify.memory_gb, `ulimit -v` of this process, and the memory of the machine or container plus the
    address space that uses no memory. root: as in machine.memory_limit.
    """
    memory, unused = machine.memory_limit(root), MAPPED + THREAD * (os.cpu_count() or 1)
    limits = [
        (int(wanted_gb * 2**30), f"simplify.memory_gb={wanted_gb:g} (of address space)"),
        (
            memory + unused,
            f"this machine's or container's memory of {memory / 2**30:.2g} GB (address space {{gb:.2g}} GB)",
        ),
    ]
    allowed = machine.address_space()
    if allowed is not None:
        limits.append((allowed, "ulimit -v of {gb:.2g} GB"))
    limit, text = min(limits)
    return limit, text.format(gb=limit / 2**30)


def changed_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> str | None:
    """Which input or output onnxsim renamed, retyped or reshaped; None when all are as before."""
    old = [*before.graph.input, *before.graph.output]
    new = [*after.graph.input, *after.graph.output]
    for was, now in zip(old, new, strict=False):
        if (was.name, was.type) != (now.name, now.type):
            return f"onnxsim changed {was.name} from {was.type} to {now.name} {now.type}"
    return None if len(old) == len(new) else f"onnxsim kept {len(new)} of {len(old)} inputs and outputs"


def simplify(model: onnx.ModelProto, options: Simplify) -> tuple[onnx.ModelProto, str | None]:
    """The simplified model and None, or the model itself and the reason. Weights stay references to the file."""
    if not options.enabled:
        return model, "simplify.enabled is false"
    check_passes(options.skip)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    weights = detach_weights(bare)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(bare, source)
        reason = onnxsim(source, target, options)
        if reason is None:
            simplified = onnx.load(target)
            reason = changed_interface(bare, simplified)
    if reason is not None:
        return model, reason
    attach_weights(simplified, weights)
    graph = ir.from_proto(simplified)
    fuse_rotary(graph)
    name_nodes(graph, inherited_modules(model, graph))
    return ir.to_proto(graph), None


def counts(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes per operator type, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def main() -> None:
    """Run the stage in a point's folder."""
    source = Path(layout.ONNX)
    model = onnx.load(source / layout.MODEL, load_external_data=False)
    simplified, reason = simplify(model, section(Simplify))
    before, after = counts(model), counts(simplified)
    if reason is not None:
        print(f"not simplified, the graph stays as it is: {reason}", file=sys.stderr)
    nodes = {"before": sum(before.values()), "after": sum(after.values())}
    with atomic_folder(Path(layout.SIMPLIFIED)) as out:
        onnx.save(simplified, out / layout.MODEL)
        shutil.copyfile(source / layout.DATA, out / layout.DATA)  # onnx refuses to load data by a hard link
        changes = {op: after.get(op, 0) - before.get(op, 0) for op in sorted({*before, *after})}
        report = {
            "simplified": reason is None,
            "reason": reason,
            "nodes": nodes,
            "change": {op: change for op, change in changes.items() if change},
        }
        write_json(out / layout.CHANGES, report)
    print(f"{nodes['before']} nodes -> {nodes['after']}")


if __name__ == "__main__":
    stage.run("simplify", main)
