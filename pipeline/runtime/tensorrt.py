"""Run a TensorRT plan on the GPU: one buffer on both sides of each cache, a profile by shape, decode as a CUDA graph.

Everything goes through names and `execute_async_v3`, which TensorRT 10, 11 and TensorRT-RTX share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.contract import LOGITS
from pipeline.core.dtypes import Array
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_path
from pipeline.core.layout import PLAN
from pipeline.runtime import tensorrt_api
from pipeline.runtime.device import open_device
from pipeline.runtime.engine_info import EngineInfo
from pipeline.runtime.session import Runtime, Session
from pipeline.runtime.tensorrt_plan import obstacle


class TensorRT(Runtime):
    """A plan, loaded. Raises UserError when it does not run here (`tensorrt_plan.obstacle`) or is not what its
    engine.json says."""

    def __init__(self, folder: Path, info: EngineInfo) -> None:
        problem = obstacle(folder, info.raw)
        if problem is not None:
            raise UserError(problem)
        self.contract = info.contract
        self.bounds = info.bounds  # in the order of the plan's profiles
        self.api = tensorrt_api.load(info.kind)
        self.device = open_device()
        self._loader = self.api.trt.Runtime(self.api.logger)
        self.engine = self._loader.deserialize_cuda_engine((folder / PLAN).read_bytes())
        if self.engine is None:
            said = " ".join(self.api.log.errors[-1:]) or "nothing"
            fix = "dvc repro builds the engine again where its inputs changed; dvc checkout restores a damaged file"
            raise UserError(Problem(f"{self.api.product} does not load it. It says: {said}", str(folder / PLAN), fix))
        found = {present: self.engine.get_aliased_input_tensor(present) for present in self.contract.aliases}
        if found != self.contract.aliases:
            wrong = sorted(name for name, past in self.contract.aliases.items() if found[name] != past)
            what = f"the plan does not write {', '.join(wrong)} in place"
            raise UserError(Problem(what, str(folder / PLAN), "build it again; should that not help, report it"))

    def session(self, batch: int) -> "TensorRTSession":
        return TensorRTSession(self, batch)

    def profile(self, **sizes: int) -> int:
        """The index of the tightest profile for a batch and a sequence; the session has checked that there is one."""
        fitting = [
            (axes["sequence"][1], axes["batch"][1], index)
            for index, axes in enumerate(self.bounds.values())
            if all(axes[name][0] <= size <= axes[name][1] for name, size in sizes.items())
        ]
        return min(fitting)[2]

    def context(self, profile: int) -> Any:
        """A new execution context. TensorRT-RTX compiles its kernels when it is made: what was compiled in an earlier
        process is taken from a cache beside the artifacts."""
        config, trt = None, self.api.trt
        if hasattr(trt, "IRuntimeCache"):
            config = self.engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            kernels = config.create_runtime_cache()
            if self._kept.exists():
                kernels.deserialize(self._kept.read_bytes())
            config.set_runtime_cache(kernels)
        context = self.engine.create_execution_context(config) if config else self.engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self.device.stream):
            said = " ".join(self.api.log.errors[-1:]) or "nothing"
            fix = "free memory of the GPU, or build with smaller profile.*.max"
            raise UserError(Problem(f"{self.api.product} makes no context. It says: {said}", "profile", fix))
        return context

    def keep_kernels(self, context: Any) -> None:
        """Write the kernels that a context was given or compiled where the next process finds them."""
        if hasattr(self.api.trt, "IRuntimeCache"):
            config = context.get_runtime_config()
            kernels = config.get_runtime_cache()
            compiled = bytes(memoryview(kernels.serialize()))
            if not self._kept.exists() or self._kept.stat().st_size != len(compiled):
                with atomic_path(self._kept) as path:
                    path.write_bytes(compiled)

    @property
    def _kept(self) -> Path:
        return tensorrt_api.scratch(self.api, "kernels")


class TensorRTSession(Session):
    """See Session."""

    def __init__(self, runtime: TensorRT, batch: int) -> None:
        super().__init__(runtime.contract, runtime.bounds, batch)
        self._runtime = runtime
        self._device = runtime.device
        longest = max(axes["sequence"][1] for axes in runtime.bounds.values())
        self._memory = {
            tensor.name: self._device.array(tensor.sized(batch=batch, sequence=longest), tensor.dtype)
            for tensor in (*self.contract.inputs, self.contract.logits)
        }
        self._memory |= {new: self._memory[past] for new, past in self.contract.aliases.items()}
        self._contexts: dict[tuple[int, bool], Any] = {}
        self._decode: Callable[[], None] | None = None

    def fetch(self) -> list[Array]:
        for i, tensor in enumerate(self.contract.caches):
            self._caches[i] = self._device.download(self._memory[tensor.name], self._caches[i].shape, tensor.dtype)
        return self.caches

    def store(self, caches: Sequence[Array]) -> None:
        for tensor, cache in zip(self.contract.caches, caches, strict=True):
            self._device.upload(self._memory[tensor.name], cache.astype(tensor.dtype, copy=False))

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
        """By a context that is set to these shapes; a step of one token has its own, and is captured at its second run,
        when nothing is left to be compiled or allocated."""
        key = self._runtime.profile(batch=self.batch, sequence=sequence), sequence == 1
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

        capturable = getattr(context, "is_stream_capturable", None)  # of TensorRT-RTX alone
        if known and sequence == 1 and (capturable is None or capturable(self._device.stream)):
            self._decode = self._device.captured(work)
            self._decode()
            return
        work()
        if not known:
            self._runtime.keep_kernels(context)

    def _ready(self, profile: int) -> Any:
        """A context of a profile that knows where everything lies: past and present of a cache in one place."""
        context = self._runtime.context(profile)
        for name, memory in self._memory.items():
            context.set_tensor_address(name, memory.address)
        for new, past in self.contract.aliases.items():
            assert context.get_tensor_address(new) == context.get_tensor_address(past)
        return context
