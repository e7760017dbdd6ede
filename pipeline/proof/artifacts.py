"""The artifacts of a point as verify sees them: whether each can run here, what an inspection of it finds, and how to
open it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
import torch

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.machine import cores
from pipeline.core.profiles import Profiles
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.model import pt2
from pipeline.proof.interface import interface_findings, onnx_findings, program_findings, window_findings
from pipeline.proof.reference import Reference
from pipeline.runtime import engine_info, genai, tensorrt
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine, why_unavailable
from pipeline.runtime.session import Runtime
from pipeline.runtime.torch import Torch
from pipeline.text.stop_tokens import stop_tokens


@dataclass
class Artifact(ABC):
    """One artifact of the point in the folder `point`. quantized: whether its weights are quantized."""

    point: Path
    contract: GraphContract
    name: str
    quantized: bool = False

    def why_unavailable(self) -> str | None:
        """Why it cannot run on this machine; None when it can."""
        return None

    def fix(self) -> str:
        """What may help when it misses a gate; empty when nothing is known."""
        return ""

    def max_batch(self) -> int:
        """The largest batch that it accepts."""
        return self.contract.axes["batch"]

    @abstractmethod
    def findings(self) -> list[str]:
        """What an inspection finds wrong with it, compared with the contract; nothing is run."""

    @abstractmethod
    def open(self, reference: Reference | None = None) -> Runtime:
        """Load it; weights that equal the reference's may be shared with it."""


class Program(Artifact):
    """wrapped/, in PyTorch."""

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The program with its weights."""
        return pt2.load(self.point / self.name / layout.PROGRAM)

    def findings(self) -> list[str]:
        return program_findings(self.program, self.contract)

    def open(self, reference: Reference | None = None) -> Runtime:
        if reference is not None:
            reference.share_equal_weights(self.program.state_dict)
        return Torch(self.program, self.contract, Profiles.of_axes(self.contract))


class Graph(Artifact):
    """A portable graph, in ONNX Runtime on the CPU."""

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.point / self.name / layout.MODEL

    def why_unavailable(self) -> str | None:
        bf16 = self.contract.compute == "bfloat16"
        return "ONNX Runtime has no CPU kernels for bf16" if bf16 else None

    def findings(self) -> list[str]:
        return onnx_findings(onnx.load(self.path, load_external_data=False), self.contract)

    def open(self, reference: Reference | None = None) -> Runtime:
        return OnnxRuntime(self.path, self.contract, Profiles.of_axes(self.contract))


class Quantized(Graph):
    """The graph in quantized/."""

    def why_unavailable(self) -> str | None:
        report = json.loads((self.point / self.name / layout.QUANTIZATION).read_text(encoding="utf-8"))
        fmt = FORMATS.get(Weights(report["weights"]))
        if fmt is not None and not fmt.cpu_dequantizes:
            return f"ONNX Runtime has no CPU kernels for {fmt.bits}-bit {'floats' if fmt.is_float else 'integers'}"
        return super().why_unavailable()


class Network(Artifact):
    """The network that TensorRT parsed from the final model, run by interpretation."""

    def why_unavailable(self) -> str | None:
        folder = self.point / layout.ENGINE
        problem = tensorrt.why_other_version(folder, engine_info.read(folder))
        return problem.what if problem else None

    def findings(self) -> list[str]:
        return []  # the lint has checked it in stage engine

    def open(self, reference: Reference | None = None) -> Runtime:
        from pipeline.proof.tensorrt.interpreter import open_network

        return open_network(self.point, self.contract)


class Engine(Artifact):
    """engine/, in its own runtime."""

    def why_unavailable(self) -> str | None:
        problem = why_unavailable(self.point / self.name)
        return problem.what if problem else None

    def fix(self) -> str:
        if self.contract.scales:
            return "set cache.dtype=auto, so that keys and values are not rounded"
        rounds = self.quantized and engine_info.read(self.point / self.name).raw.get("int8_activations", False)
        return "set engine.int8_activations=false, so that activations are not rounded to 8 bits" if rounds else ""

    def max_batch(self) -> int:
        return engine_info.read(self.point / self.name).profiles.max("batch")

    def open_beside(self) -> Runtime:
        """Load it with half of the cores, to run beside the original."""
        return open_engine(self.point / self.name, threads=max(1, cores() // 2))

    def findings(self) -> list[str]:
        path = self.point / self.name / layout.MODEL
        if not path.exists():
            return []  # a plan cannot be inspected
        model = onnx.load(path, load_external_data=False)
        own = engine_info.read(path.parent).contract
        slots = {cache.name: int(cache.shape[2]) for cache in own.caches if cache.name in own.windows}
        want = self.contract.narrowed(own.windows, slots)
        if own.is_for_clients:
            want = want.for_clients()
        return interface_findings(model, want) + window_findings(model, want)

    def open(self, reference: Reference | None = None) -> Runtime:
        return open_engine(self.point / self.name)


class Client(Artifact):
    """engine/ in onnxruntime-genai, where it was built for clients."""

    def why_unavailable(self) -> str | None:
        return genai.why_unavailable()

    def findings(self) -> list[str]:
        folder = self.point / layout.ENGINE
        stated = json.loads((folder / layout.GENAI_CONFIG).read_text(encoding="utf-8"))["model"]
        vocab = int(self.contract.logits.shape[2])
        stop = sorted(
            token for token in stop_tokens(folder) if token < vocab
        )  # cases run with another one, so that no row ends
        return [] if stated["eos_token_id"] == stop else [f"it ends at {stated['eos_token_id']}, the model at {stop}"]

    def open(self, reference: Reference | None = None) -> Runtime:
        return genai.Genai(self.point / layout.ENGINE)


def artifacts(point: Path, contract: GraphContract) -> Iterator[Artifact]:
    """A point's artifacts in the order of the stages. quantized/ holds a model only where weights were quantized, only
    TensorRT's plans have a network, and only engines for clients run in one."""
    yield Program(point, contract, layout.WRAPPED)
    yield Graph(point, contract, layout.ONNX)
    yield Graph(point, contract, layout.SIMPLIFIED)
    final = layout.final_model(point)
    quantized = final.name == layout.QUANTIZED
    if quantized:
        contract = GraphContract.load(layout.contract(point / layout.WRAPPED, final))
        yield Quantized(point, contract, layout.QUANTIZED, quantized)
    if (point / layout.ENGINE / layout.PLAN).exists():
        yield Network(point, contract, layout.NETWORK, quantized)
    yield Engine(point, contract, layout.ENGINE, quantized)
    if (point / layout.ENGINE / layout.GENAI_CONFIG).exists():
        yield Client(point, contract, layout.CLIENT, quantized)
