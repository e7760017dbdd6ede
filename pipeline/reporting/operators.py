"""The operators of a point's artifacts, counted in their files; no weights are read."""

import json
import zipfile
from collections import Counter
from pathlib import Path

import onnx

from pipeline.core import layout
from pipeline.reporting.records import Operators

GRAPHS = (layout.ONNX, layout.SIMPLIFIED, layout.QUANTIZED, layout.ENGINE)
IN_PROGRAM = "models/model.json"  # the end of its path within torch.export's file


def operators(point: Path) -> tuple[Operators, ...]:
    """Those of each artifact that is there and can be read, in the order of the stages."""
    found = {layout.WRAPPED: of_program(point / layout.WRAPPED / layout.PROGRAM)}
    found |= {name: of_graph(point / name / layout.MODEL) for name in GRAPHS}
    return tuple(
        Operators(name, sum(counts.values()), dict(sorted(counts.items(), key=lambda each: (-each[1], each[0]))))
        for name, counts in found.items()
        if counts
    )


def of_graph(path: Path) -> Counter[str]:
    """Nodes of an ONNX file by operator, those in functions and in branches included."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # no file, or no model: protobuf raises errors of its own
        return Counter()
    counts: Counter[str] = Counter()
    graphs = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            counts[f"{node.domain}.{node.op_type}".removeprefix(".")] += 1
            graphs += [each for attribute in node.attribute for each in (attribute.g, *attribute.graphs) if each.node]
    return counts


def of_program(path: Path) -> Counter[str]:
    """Calls of a program by operator, such as aten.linear.default."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(IN_PROGRAM)]
            nodes = json.loads(archive.read(name))["graph_module"]["graph"]["nodes"]
        return Counter(str(node["target"]).removeprefix("torch.ops.") for node in nodes)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return Counter()
