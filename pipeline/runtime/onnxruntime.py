"""Run an ONNX model of the contract in ONNX Runtime, with past and present of each cache in one buffer.

Both sides of every alias are bound to the same memory, so the cache is written in place and never copied. On the CPU
that memory is the session's NumPy arrays. On a GPU it is ONNX Runtime's own, and a step of one token is replayed as a
CUDA graph.
"""

import copy
import itertools
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pipeline.core import hardware
from pipeline.core.arrays import Array
from pipeline.core.contract import LOGITS, GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.layout import DATA
from pipeline.core.machine import cores
from pipeline.core.profiles import Profiles
from pipeline.core.tables.engines import CPU, CUDA, KINDS
from pipeline.runtime import memory
from pipeline.runtime.engine_info import EngineInfo, too_old
from pipeline.runtime.session import Runtime, Session

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


# Flash attention is slower on the CPU: 512 tokens of SmolLM2-135M take 191 ms with it, 106 without; a decode step takes
# the same. The variable is read when a session creates its kernels.
FLASH_ATTENTION_OFF = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_LOCK = threading.Lock()
NOT_CAPTURED = "-1"  # the graph id of a run that is not recorded as a CUDA graph


class OnnxRuntime(Runtime):
    """An ONNX file, loaded.

    threads: 0 for one per core that this process may use. provider: computes the model; operators without a kernel
    there run on the CPU. Raises UserError when the provider is not available: ONNX Runtime would silently use the CPU.
    """

    def __init__(
        self,
        model: Path,
        contract: GraphContract,
        profiles: Profiles,
        *,
        optimization: str = "all",
        threads: int = 0,
        provider: str = CPU,
        provider_options: dict[str, str] | None = None,
    ) -> None:
        problem = why_provider_unavailable(provider)
        if problem is not None:
            raise UserError(problem)
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[optimization]
        options.intra_op_num_threads = threads or cores()
        # Without it, fused DequantizeLinear and MatMul round activations to 8 bits (an error of 0.6 %).
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.contract = contract
        self.profiles = profiles
        self.on_cpu = provider == CPU
        self.graphs = itertools.count(1)  # numbers for the CUDA graphs of its sessions
        self.captures = provider == CUDA
        if not self.on_cpu:
            ort.preload_dlls()  # CUDA's libraries, where packages of NVIDIA's brought them
        with memory.use_huge_pages() if self.on_cpu else nullcontext() as self._moving:
            try:
                self.inference = self._load(model, options, provider, provider_options or {})
            except Exception as error:  # onnxruntime raises classes of its own for every failure
                # Recognized by its text: class and code are the same as for a file that does not load. If the text
                # changes, the engine fails to load with ONNX Runtime's message; nothing runs wrongly.
                if not self.captures or "graph capture" not in str(error):
                    raise
                self.captures = False  # some operator runs on the CPU
                self.inference = self._load(model, options, provider, provider_options or {})
        if provider not in self.inference.get_providers():
            what = f"ONNX Runtime did not start {provider}; its log above has the reason"
            raise UserError(Problem(what, "engine.provider", "python -m pipeline.doctor, or engine=onnxruntime_cpu"))
        if self.on_cpu:
            memory.release_mapped(model.parent / DATA)

    def _load(
        self, model: Path, options: ort.SessionOptions, provider: str, settings: dict[str, str]
    ) -> ort.InferenceSession:
        """Load the model for a provider, with the CPU as fallback of a provider for GPUs."""
        if provider == CUDA:
            settings = settings | {"use_tf32": "0", "enable_cuda_graph": str(int(self.captures))}  # fp32 stays fp32
        providers: list[Any] = [CPU] if self.on_cpu else [(provider, settings), CPU]
        with _environment(FLASH_ATTENTION_OFF, "1"):
            return ort.InferenceSession(model, options, providers=providers)

    def move_weights(self) -> None:
        """Start moving the weights to huge pages, unless that was done."""
        if self._moving is not None and self._moving.ident is None:
            with _LOCK:
                if self._moving.ident is None:  # no other thread was first
                    self._moving.start()

    def finish_loading(self) -> None:
        self.move_weights()
        if self._moving is not None:
            self._moving.join()

    def widened(self, rows: int) -> Runtime:
        if not self.on_cpu:
            return self
        wide = copy.copy(self)  # of the same inference session, which takes any batch
        wide.profiles = self.profiles.widened(rows)
        return wide

    def session(self, batch: int) -> Session:
        return OnnxRuntimeSession(self, batch) if self.on_cpu else GpuSession(self, batch)


def open_engine(folder: Path, info: EngineInfo, threads: int | None) -> OnnxRuntime:
    """Load the engine in `folder`. Raises UserError when it needs a later version or a provider that is not here."""
    return load(OnnxRuntime, folder, info, threads)


def load(form: type[OnnxRuntime], folder: Path, info: EngineInfo, threads: int | None) -> OnnxRuntime:
    """See open_engine; `form`: the class, which decides on the sessions."""
    problem = too_old(folder, info, ort.__version__)
    if problem is not None:
        raise UserError(problem)
    return form(
        folder / KINDS[info.kind].model,
        info.contract,
        info.profiles,
        optimization=info.raw["optimization"],
        threads=info.raw["threads"] if threads is None else threads,
        provider=info.raw["provider"],
        provider_options=info.raw["provider_options"],
    )


def why_unavailable(_folder: Path, info: EngineInfo) -> Problem | None:
    """Why the provider that an engine was built for cannot compute here; None when it should."""
    return why_provider_unavailable(info.raw["provider"])


def why_provider_unavailable(provider: str) -> Problem | None:
    """Why a provider cannot compute here; None when it should."""
    fix = "pip uninstall onnxruntime; pip install onnxruntime-gpu[cuda,cudnn]; or engine=onnxruntime_cpu"
    if provider not in ort.get_available_providers():
        return Problem(f"ONNX Runtime {ort.__version__} has no {provider} here", "engine.provider", fix)
    if provider != CPU and not hardware.gpus():
        return Problem(f"there is no NVIDIA GPU here for {provider}", "engine.provider", "engine=onnxruntime_cpu")
    return None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside this context, unless the user has set it. One thread at a time."""
    with _LOCK:
        if name in os.environ:
            yield
            return
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]


def _run_options(key: str, value: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(key, value)
    return options


class OnnxRuntimeSession(Session):
    """See Session. The first step after a prompt releases the memory of the prompt's activations."""

    _plain: ort.RunOptions | None = None
    _shrinking: ort.RunOptions | None = _run_options("memory.enable_memory_arena_shrinkage", "cpu:0")
    _grown = _ran = False

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        super().__init__(runtime.contract, runtime.profiles, batch)
        # More tokens at once make products no faster and attention slower: a prompt of 512 tokens takes 4 % less time
        # in two chunks. Memory for activations then depends on neither prompt nor batch: 80 MB less for 8 rows of 512
        # in the same time. Chunks of half this size would take 8 % more time.
        self.chunk = max(1, min(256, 1024 // batch))
        self._loaded = runtime
        self._inference = runtime.inference
        self._binding = self._inference.io_binding()
        self._next_binding = self._inference.io_binding() if self._states else self._binding
        self._next_states = [np.empty_like(state) for state in self._states]
        self._bind_caches()

    def _bind_caches(self) -> None:
        """Bind each cache as input and as output. A state has two buffers, which take turns: the operator that writes
        it need not be the last to read it."""
        present = {past: new for new, past in self.contract.aliases.items()}
        turns = (self._states, self._next_states)
        for binding, (old, new) in zip((self._binding, self._next_binding), (turns, turns[::-1]), strict=True):
            for tensor, cache in zip(self.contract.caches, self.caches, strict=True):
                binding.bind_input(tensor.name, *_where(cache))
                binding.bind_output(present[tensor.name], *_where(cache))
            for tensor, before, after in zip(self.contract.states, old, new, strict=True):
                binding.bind_input(tensor.name, *_where(before))
                binding.bind_output(present[tensor.name], *_where(after))

    def _run(self, feeds: dict[str, Array]) -> Array:
        if self._ran:  # not before the first token
            self._loaded.move_weights()
        self._ran = True
        for name, value in feeds.items():
            self._binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        logits = self.contract.logits
        out = np.empty(logits.sized(batch=self.batch, sequence=feeds["input_ids"].shape[1]), logits.dtype)
        self._binding.bind_output(LOGITS, "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        prompt = feeds["input_ids"].shape[1] > 1
        shrinking = self._shrinking if self._grown and not prompt else None
        self._inference.run_with_iobinding(self._binding, shrinking or self._plain)
        self._grown = prompt
        self._take_turns()
        return out

    def _take_turns(self) -> None:
        """Let the states that the step has written be the next one's."""
        self._binding, self._next_binding = self._next_binding, self._binding
        self._states, self._next_states = self._next_states, self._states


def _where(array: Array) -> tuple[Any, ...]:
    """An array as ONNX Runtime's bindings take it."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


class GpuSession(OnnxRuntimeSession):
    """A session with its caches in the memory of the first GPU; tokens and logits are copied, caches are not.

    Where the runtime captures CUDA graphs, a step of one token has inputs and logits at fixed addresses: its first run
    is recorded as a graph, and later ones replay it.
    """

    _shrinking = None

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        super().__init__(runtime, batch)
        self.chunk = None
        self._plain = _run_options("gpu_graph_id", NOT_CAPTURED)
        self._decode = None
        if runtime.captures and not self.contract.states:  # a graph has fixed addresses, and states take turns
            number = next(runtime.graphs)
            self._graph = _run_options("gpu_graph_id", str(number))
            weakref.finalize(self, self._inference.release_captured_graph, number).atexit = False
            self._decode = self._inference.io_binding()
            self._bind(self._decode)
            self._fixed = {
                tensor.name: _on_gpu(np.zeros(tensor.sized(batch=batch, sequence=1), tensor.dtype))
                for tensor in (*self.contract.inputs, self.contract.logits)
                if tensor not in self.contract.caches
            }
            for name, value in self._fixed.items():
                bind = self._decode.bind_ortvalue_output if name == LOGITS else self._decode.bind_ortvalue_input
                bind(name, value)

    def _bind_caches(self) -> None:
        self._held = [_on_gpu(cache) for cache in self.caches]
        self._held_states, self._next_held = ([_on_gpu(state) for state in self._states] for _ in range(2))
        present = {past: new for new, past in self.contract.aliases.items()}
        turns = (self._held_states, self._next_held)
        for binding, (old, new) in zip((self._binding, self._next_binding), (turns, turns[::-1]), strict=True):
            self._bind(binding)
            for tensor, before, after in zip(self.contract.states, old, new, strict=True):
                binding.bind_ortvalue_input(tensor.name, before)
                binding.bind_ortvalue_output(present[tensor.name], after)

    def _take_turns(self) -> None:
        super()._take_turns()
        self._held_states, self._next_held = self._next_held, self._held_states

    def _bind(self, binding: ort.IOBinding) -> None:
        """Bind each cache as input and as output."""
        present = {past: new for new, past in self.contract.aliases.items()}
        for tensor, value in zip(self.contract.caches, self._held, strict=True):
            binding.bind_ortvalue_input(tensor.name, value)
            binding.bind_ortvalue_output(present[tensor.name], value)

    def _run(self, feeds: dict[str, Array]) -> Array:
        if self._decode is None or feeds["input_ids"].shape[1] > 1:
            return super()._run(feeds)
        for name, value in feeds.items():
            self._fixed[name].update_inplace(value)
        self._inference.run_with_iobinding(self._decode, self._graph)
        logits: Array = self._fixed[LOGITS].numpy()
        return logits

    def read_caches(self) -> list[Array]:
        self._caches = [value.numpy() for value in self._held]
        return self.caches

    def read_states(self) -> list[Array]:
        self._states = [value.numpy() for value in self._held_states]
        return self.states

    def write_states(self, states: Sequence[Array]) -> None:
        super().write_states(states)
        for value, state in zip(self._held_states, self._states, strict=True):
            value.update_inplace(state)

    def _clear_states(self, rows: npt.NDArray[np.bool_]) -> None:
        self.read_states()
        super()._clear_states(rows)
        for value, state in zip(self._held_states, self._states, strict=True):
            value.update_inplace(state)

    def write_caches(self, caches: Sequence[Array]) -> None:
        for value, cache in zip(self._held, caches, strict=True):
            value.update_inplace(np.ascontiguousarray(cache))


def _on_gpu(array: Array) -> ort.OrtValue:
    """A copy in the memory of the first GPU."""
    return ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
