"""Run a TensorRT plan on the GPU: past and present of each cache in one buffer, decode steps as a CUDA graph.

Each step runs with the tightest profile for its shape. Tensors are bound by name and run by `execute_async_v3`, which
TensorRT 10, 11 and TensorRT-RTX have in common.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core import hardware
from pipeline.core.arrays import Array
from pipeline.core.contract import LOGITS
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_path
from pipeline.core.layout import PLAN
from pipeline.core.tables.engines import KINDS
from pipeline.runtime import device, tensorrt_api
from pipeline.runtime.device import open_device
from pipeline.runtime.engine_info import EngineInfo, rebuild
from pipeline.runtime.session import Runtime, Session


class TensorRT(Runtime):
    """A plan, loaded. Raises UserError when it does not run here (`why_unavailable`) or does not match engine.json."""

    def __init__(self, folder: Path, info: EngineInfo) -> None:
        problem = why_unavailable(folder, info)
        if problem is not None:
            raise UserError(problem)
        self.contract = info.contract
        self.profiles = info.profiles  # in the order of the plan's profiles
        self.api = tensorrt_api.load(info.kind)
        self.device = open_device()
        self._loader = self.api.trt.Runtime(self.api.logger)
        self.engine = self._loader.deserialize_cuda_engine((folder / PLAN).read_bytes())
        if self.engine is None:
            said = " ".join(self.api.log.errors[-1:]) or "nothing"
            fix = "dvc repro builds the engine again where its inputs changed; dvc checkout restores a damaged file"
            raise UserError(
                Problem(f"{self.api.product} does not load the plan. It says: {said}", str(folder / PLAN), fix)
            )
        in_place = {new: past for new, past in self.contract.aliases.items() if past not in self.contract.rules}
        wrong = sorted(new for new, past in in_place.items() if self.engine.get_aliased_input_tensor(new) != past)
        if wrong:
            what = f"the plan does not write {', '.join(wrong)} in place"
            raise UserError(Problem(what, str(folder / PLAN), "rebuild it; if that does not help, report it"))

    def session(self, batch: int) -> "TensorRTSession":
        return TensorRTSession(self, batch)

    def context(self, profile: int) -> Any:
        """Make an execution context of a profile. TensorRT-RTX compiles its kernels at this point, except those that an
        earlier process left in the user's cache."""
        config, trt = None, self.api.trt
        if hasattr(trt, "IRuntimeCache"):
            config = self.engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            kernels = config.create_runtime_cache()
            if self._kernel_cache.exists():
                kernels.deserialize(self._kernel_cache.read_bytes())
            config.set_runtime_cache(kernels)
        context = self.engine.create_execution_context(config) if config else self.engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self.device.stream):
            said = " ".join(self.api.log.errors[-1:]) or "nothing"
            fix = "free memory of the GPU, or build with smaller profile.*.max"
            raise UserError(
                Problem(f"{self.api.product} creates no execution context. It says: {said}", "profile", fix)
            )
        return context

    def save_kernel_cache(self, context: Any) -> None:
        """Write all kernels of a context, loaded or compiled, to the user's cache for later processes."""
        if hasattr(self.api.trt, "IRuntimeCache"):
            config = context.get_runtime_config()
            kernels = config.get_runtime_cache()
            compiled = bytes(memoryview(kernels.serialize()))
            if not self._kernel_cache.exists() or self._kernel_cache.stat().st_size != len(compiled):
                with atomic_path(self._kernel_cache) as path:
                    path.write_bytes(compiled)

    @property
    def _kernel_cache(self) -> Path:
        return tensorrt_api.user_cache_file(self.api, "kernels")


def open_engine(folder: Path, info: EngineInfo, _threads: int | None) -> TensorRT:
    """Load the plan in `folder`. Raises UserError when it does not run here."""
    return TensorRT(folder, info)


def why_unavailable(folder: Path, info: EngineInfo) -> Problem | None:
    """Why the plan in `folder` does not run here; None when it should: it takes a GPU that it was built for, and the
    very version of TensorRT that built it."""
    product = KINDS[info.kind].product
    targets = ", ".join(info.raw["targets"])
    gpus = hardware.gpus()
    if not gpus:
        what = f"there is no NVIDIA GPU here; the plan is for compute capability {targets}"
        return Problem(what, "engine.kind", "run it on a machine with one, or take engine=onnxruntime_cpu")
    if not any(capability in info.raw["targets"] for _, capability in gpus):
        here = "; ".join(f"{name}, {capability}" for name, capability in gpus)
        what = f"the plan is for compute capability {targets}, the GPU here is {here}"
        fix = f"add it to engine.targets where {product} builds for it, and build it again here: {rebuild(folder)}"
        return Problem(what, "engine.targets", fix)
    return why_other_version(folder, info) or device.why_unavailable()


def why_other_version(folder: Path, info: EngineInfo) -> Problem | None:
    """What is wrong with the TensorRT that is installed here; None when it is the version that built the plan."""
    try:
        version = tensorrt_api.load(info.kind).version
    except UserError as missing:
        return missing.problems[0]
    built_by = info.raw["version"]
    if version == built_by:
        return None
    what = f"the plan was built by {KINDS[info.kind].product} {built_by}, here is {version}"
    return Problem(what, "engine", f"build it again here: {rebuild(folder)}; or install {built_by}")


class TensorRTSession(Session):
    """See Session."""

    def __init__(self, runtime: TensorRT, batch: int) -> None:
        super().__init__(runtime.contract, runtime.profiles, batch)
        self._runtime = runtime
        self._device = runtime.device
        longest = runtime.profiles.max("sequence")
        self._memory = {
            tensor.name: self._device.array(tensor.sized(batch=batch, sequence=longest), tensor.dtype)
            for tensor in (*self.contract.inputs, self.contract.logits)
        }
        aliases, rules = self.contract.aliases, self.contract.rules
        self._memory |= {new: self._memory[past] for new, past in aliases.items() if past not in rules}
        self._new_states = {past: new for new, past in aliases.items() if past in rules}
        self._memory |= {
            self._new_states[state.name]: self._device.array(state.sized(batch=batch), state.dtype)
            for state in self.contract.states
        }
        self._contexts: dict[tuple[int, bool], Any] = {}
        self._decode: Callable[[], None] | None = None

    def read_caches(self) -> list[Array]:
        for i, tensor in enumerate(self.contract.caches):
            self._caches[i] = self._device.download(self._memory[tensor.name], self._caches[i].shape, tensor.dtype)
        return self.caches

    def write_caches(self, caches: Sequence[Array]) -> None:
        for tensor, cache in zip(self.contract.caches, caches, strict=True):
            self._device.upload(self._memory[tensor.name], cache.astype(tensor.dtype, copy=False))

    def read_states(self) -> list[Array]:
        for i, tensor in enumerate(self.contract.states):
            self._states[i] = self._device.download(self._memory[tensor.name], self._states[i].shape, tensor.dtype)
        return self.states

    def write_states(self, states: Sequence[Array]) -> None:
        super().write_states(states)
        for tensor, state in zip(self.contract.states, self._states, strict=True):
            self._device.upload(self._memory[tensor.name], state)

    def _clear_states(self, rows: npt.NDArray[np.bool_]) -> None:
        states = self.read_states()
        super()._clear_states(rows)
        self.write_states(states)

    def _run(self, feeds: dict[str, Array]) -> Array:
        sequence = feeds["input_ids"].shape[1]
        for name, value in feeds.items():
            self._device.upload(self._memory[name], value)
        if sequence == 1 and self._decode is not None:
            self._decode()
        else:
            self._execute(sequence)
        logits = self.contract.logits
        shape = logits.sized(batch=self.batch, sequence=sequence)
        return self._device.download(self._memory[LOGITS], shape, logits.dtype)

    def _execute(self, sequence: int) -> None:
        """Run one step. A step of one token has a context of its own and is captured at its second run, when nothing is
        left to compile or allocate."""
        key = self.profiles.tightest(self.batch, sequence), sequence == 1
        known = key in self._contexts
        if not known:
            self._contexts[key] = self._ready(key[0])
        context = self._contexts[key]
        for tensor in self.contract.inputs:
            context.set_input_shape(tensor.name, tensor.sized(batch=self.batch, sequence=sequence))

        def work() -> None:
            if not context.execute_async_v3(self._device.stream):
                said = " ".join(self._runtime.api.log.errors[-1:]) or "nothing"
                raise RuntimeError(f"{self._runtime.api.product} did not run the step. It says: {said}")
            for past, new in self._new_states.items():
                self._device.copy(self._memory[new], self._memory[past])

        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX only
        if known and sequence == 1 and (capturable is None or capturable(self._device.stream)):
            self._decode = self._device.captured(work)
            self._decode()
            return
        work()
        if not known:
            self._runtime.save_kernel_cache(context)

    def _ready(self, profile: int) -> Any:
        """Make a context of a profile with the addresses of all tensors; past and present of a cache share one. A state
        has two, and is copied back after each step: the operator that writes it need not be the last to read it."""
        context = self._runtime.context(profile)
        for name, memory in self._memory.items():
            context.set_tensor_address(name, memory.address)
        for new, past in self.contract.aliases.items():
            in_place = past not in self.contract.rules
            assert (context.get_tensor_address(new) == context.get_tensor_address(past)) is in_place
        return context
