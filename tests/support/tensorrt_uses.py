"""What pipeline/ uses of TensorRT's Python API, read from the source.

An expression such as `layer.type` shows a use where the class of `layer` is known: OBJECTS lists the classes by the
names of variables. tests/runtime/test_tensorrt_releases.py finds uses whose class is not listed.
"""

import ast
import re
from dataclasses import dataclass, field

from pipeline.backends.tensorrt import lint, network
from pipeline.proof.tensorrt.layers import LAYERS
from pipeline.runtime.tensorrt_api import NEEDED
from tests.support.repository import ROOT

MODULES: tuple[str, ...] = (
    "runtime/tensorrt.py",
    "runtime/tensorrt_api.py",
    "proof/tensorrt/interpreter.py",
    "proof/tensorrt/layers.py",
    "proof/tensorrt/loops.py",
)
MODULES += tuple(f"backends/tensorrt/{name}.py" for name in ("build", "lint", "network"))

# The class of an object, by the expression that stands for it; "function: expression" in that function only.
OBJECTS = {
    "_caches: cache": "ITensor",
    "_caches: layer": "IKVCacheUpdateLayer",
    "_caches: out": "ITensor",
    "_constant: layer": "IConstantLayer",
    "_convolved: layer": "IConvolutionLayer",
    "_is_weight: layer": "IConstantLayer",
    "_weights: layer": "IConstantLayer",
    "_with_loops: layer": "ILoopBoundaryLayer",
    "attention": "IAttention",
    "attention.get_input(0)": "ITensor",
    "attentions: layer": "IAttentionInputLayer",
    "build: a": "IAttention",
    "build: plan": "IHostMemory",
    "builder": "Builder",
    "cast": "ICastLayer",
    "chosen": "IOptimizationProfile",
    "config": "IBuilderConfig",
    "config.get_timing_cache()": "ITimingCache",
    "context": "IExecutionContext",
    "context: config": "IRuntimeConfig",
    "error": "ParserError",
    "has_kernel: values": "ITensor",
    "iterator": "IIteratorLayer",
    "save_kernel_cache: config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
    "layer": "ILayer",
    "layer.attention": "IAttention",
    "layer.cache_mode": "KVCacheMode",
    "layer.get_input(index)": "ITensor",
    "layer.get_output(0)": "ITensor",
    "layer.loop": "ILoop",
    "layer.type": "LayerType",
    "lengths: kinds": "CausalMaskKind",
    "limit": "ITripLimitLayer",
    "network": "INetworkDefinition",
    "network.get_input(i)": "ITensor",
    "number: layer": "IConstantLayer",
    "numpy_type: dtype": "DataType",
    "operands: layer": "IAttentionInputLayer",
    "parsed.builder": "Builder",
    "parsed.network": "INetworkDefinition",
    "parser": "OnnxParser",
    "query": "ITensor",
    "raw": "ITensor",
    "result": "ILoopOutputLayer",
    "scaled: layer": "IElementWiseLayer",
    "self._loader": "Runtime",
    "self.engine": "ICudaEngine",
}
# Expressions that are not TensorRT's objects, where an attribute has a name that one of TensorRT's has too.
OURS = {
    "api",
    "engine",
    "engine_info",
    "form",
    "info",
    "log",
    "parsed",
    "parsed.api",
    "self",
    "self._runtime.api",
    "self.api",
}
OURS |= {"EngineKind", "build: network", "np", "onnx.TensorProto", "onnx.shape_inference", "torch"}
# Uses that no expression shows: names that getattr makes at run time, by the function that does.
COMPUTED = {
    "__init__": sorted(NEEDED),
    "_slice": [f"ISliceLayer.{name}" for name in ("start", "shape", "stride", "axes")],
    "_unary": [
        f"UnaryOperation.{name}"
        for name in ("ABS", "NEG", "SQRT", "EXP", "LOG", "SIN", "COS", "ERF", "FLOOR", "CEIL", "ROUND", "SIGN")
    ],
    "layers": sorted({*network.CLASSES.values(), *LAYERS}),
    "operands": ["IAttention.mask", "IAttention.key_value_lengths"],
    "targets": ["ComputeCapability.SM86", "ComputeCapability.SM120"],
}
# What code looks for with hasattr, or through a property of the adapter -> what it uses only where that is found.
PROPERTIES = {
    "lengths": "CausalMaskKind",
    "targets": "IBuilderConfig.num_compute_capabilities",
    "timing_cache": "IBuilderConfig.create_timing_cache",
}
GUARDS = {
    "CausalMaskKind": ("CausalMaskKind.*", "CausalMaskKind", "IAttention.causal_kind", "IAttention.key_value_lengths"),
    "IAttention.causal_kind": ("IAttention.causal_kind",),
    "IAttention.key_value_lengths": ("IAttention.key_value_lengths",),
    "IBuilderConfig.create_timing_cache": ("IBuilderConfig.*_timing_cache", "ITimingCache.*"),
    "IBuilderConfig.num_compute_capabilities": ("IBuilderConfig.*_compute_capabilit*", "ComputeCapability*"),
    "IExecutionContext.is_stream_capturable": ("IExecutionContext.is_stream_capturable",),
    "IProgressMonitor": ("IProgressMonitor*", "IBuilderConfig.progress_monitor"),
    "IRuntimeCache": (
        "IRuntimeCache.*",
        "IRuntimeConfig.*",
        "DynamicShapesKernelSpecializationStrategy*",
        "ICudaEngine.create_runtime_config",
        "IExecutionContext.get_runtime_config",
    ),
}


@dataclass
class Uses:
    """Names of the module ("OnnxParser") and of its classes ("OnnxParser.parse"), with the modules that use them."""

    names: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, set[int]] = field(default_factory=dict)  # name -> how many arguments it is called with
    sought: dict[str, set[str]] = field(default_factory=dict)  # looked for with hasattr, or getattr and a default
    computed: dict[str, str] = field(default_factory=dict)  # function that makes names at run time -> its module
    objects: set[str] = field(default_factory=set)  # of OBJECTS
    unknown: dict[str, set[str]] = field(default_factory=dict)  # attribute -> expressions of no known class


def uses() -> Uses:
    """Everything that MODULES use."""
    found = Uses()
    for module in MODULES:
        _Reader(module, found).visit(ast.parse((ROOT / "pipeline" / module).read_text(encoding="utf-8")))
    for function, names in COMPUTED.items():
        for name in names:
            found.names.setdefault(name, set()).add(found.computed.get(function, ""))
    for name in (*lint.CHANGES_NOTHING, *lint.COMPUTE, *network.CLASSES):
        found.names.setdefault(f"LayerType.{name}", set()).add("lint")
    return found


class _Reader(ast.NodeVisitor):
    """Collects the uses of one module."""

    def __init__(self, module: str, found: Uses) -> None:
        self.module = module
        self.found = found
        self.function = ""
        self.layers = {function.__name__: kind for kind, function in LAYERS.items()}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, node.name
        self.generic_visit(node)
        self.function = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Methods of a class that TensorRT calls."""
        for base in map(self.named, node.bases):
            methods = (part.name for part in node.body if isinstance(part, ast.FunctionDef) and base)
            self.use(*(f"{base}.{name}" for name in methods if not name.startswith("_")))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.named(node)
        if name is not None and not node.attr.startswith("__"):
            self.use(name)
        elif name is None:
            text = ast.unparse(node.value)
            if not {text, f"{self.function}: {text}"} & OURS:
                self.found.unknown.setdefault(node.attr, set()).add(f"{self.module}, {self.function}: {text}")
        if node.attr in PROPERTIES and ast.unparse(node.value) in OURS:
            self.found.sought.setdefault(PROPERTIES[node.attr], set()).add(self.module)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """`layer.type.name == "CONSTANT"`."""
        right = node.comparators[0]
        if (
            ast.unparse(node.left).endswith("layer.type.name")
            and isinstance(right, ast.Constant)
            and isinstance(right.value, str)
        ):
            self.use(f"LayerType.{right.value}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        of = ast.unparse(node.func)
        if of in ("getattr", "hasattr"):
            owner = self.owner(node.args[0])
            if owner is not None and isinstance(node.args[1], ast.Constant) and isinstance(node.args[1].value, str):
                name = f"{owner}.{node.args[1].value}".lstrip(".")
                self.found.sought.setdefault(name, set()).add(self.module)
            elif owner is not None:
                self.found.computed[self.function] = self.module
        called = self.named(node.func)
        if called is not None and not of.endswith("__"):
            made = called if "." in called else f"{called}.__init__"
            self.found.calls.setdefault(made, set()).add(len(node.args) + len(node.keywords))
        self.generic_visit(node)

    def use(self, *names: str) -> None:
        for name in names:
            self.found.names.setdefault(name, set()).add(self.module)

    def named(self, node: ast.expr) -> str | None:
        """The name that an expression stands for: an attribute of the module or of an object of a known class."""
        owner = self.owner(node.value) if isinstance(node, ast.Attribute) else None
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")  # type: ignore[attr-defined]

    def owner(self, node: ast.expr) -> str | None:
        """The class that an expression is or is of; "" for the module."""
        text = ast.unparse(node)
        if f"{self.function}: {text}" in OURS:
            return None
        if re.fullmatch(r"(\w+\.)*trt", text):
            return ""
        if text == "layer" and self.module.endswith("layers.py"):
            return self.layers.get(self.function)
        if isinstance(node, ast.Attribute) and self.owner(node.value) in ("", "ILogger") and node.attr[0].isupper():
            return self.named(node)
        known = next((key for key in (f"{self.function}: {text}", text) if key in OBJECTS), None)
        if known is None:
            return None
        self.found.objects.add(known)
        return OBJECTS[known]
