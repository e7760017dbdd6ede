"""Report what this machine can build and run, what is wrong, and how to fix it: python -m pipeline.doctor.

In a notebook: `!python -m pipeline.doctor`, or `doctor.findings()`. It changes nothing and needs no model or point.
Packages that may be missing are imported by the check that needs them. The exit code is 1 when something that every
build needs is wrong.
"""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import errors, hardware, usage
from pipeline.core.errors import UserError
from pipeline.core.tables.engines import CUDA, KINDS, EngineKind, install

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CLIENT = "onnxruntime-genai"  # the extra `clients`
INSTALL = "pip install --no-deps -r requirements.lock, which lists what was tested"


@dataclass(frozen=True)
class Finding:
    """One line: `state` is "ok", "note" (some engines are not available) or "wrong"."""

    state: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:5}  {self.what}" + (f"\n       fix: {self.fix}" if self.fix else "")


def findings() -> Iterator[Finding]:
    """All findings, the most important checks first."""
    for check in CHECKS:
        try:
            yield from check()
        except ImportError as error:
            yield Finding("wrong", f"{error.name} cannot be imported: {error}", INSTALL)


def _python() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    wanted = _project()["requires-python"]
    here = ".".join(map(str, sys.version_info[:3]))
    if Requirement(f"python{wanted}").specifier.contains(here):
        yield Finding("ok", f"Python {here}")
    else:
        yield Finding("wrong", f"Python {here}; kvforge runs on {wanted}", "make PYTHON=python3.11")
    on_path = shutil.which("python")
    if on_path is None or Path(on_path).parent.resolve() != Path(sys.executable).parent.resolve():
        what = f"`python` on PATH is {on_path or 'missing'}, this is {sys.executable}: dvc repro would run the former"
        yield Finding(
            "note", what, f"export PATH={Path(sys.executable).parent}:$PATH (python -m pipeline does it itself)"
        )


def _packages() -> Iterator[Finding]:
    """Compare the requirements of pyproject.toml with what is installed; report packages that exclude each other."""
    wrong = False
    for requirement in _requirements().values():
        has = _version(requirement.name)
        if has is None and requirement.name == "onnxruntime" and _version("onnxruntime-gpu"):
            continue  # it has the same modules; a later check reports which engines its version runs
        if has is None or not requirement.specifier.contains(has, prereleases=True):
            wrong = True
            what = f"{requirement.name} {has or 'is missing'}; kvforge needs {requirement.specifier}"
            # torch is not in the lock file, as it has several builds
            yield Finding("wrong", what, f"pip install '{requirement}'" if requirement.name == "torch" else INSTALL)
    if not wrong:
        yield Finding("ok", f"{len(_requirements())} packages that every build needs")
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        what = "onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files"
        yield Finding("wrong", what, "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want")


def _gpu() -> Iterator[Finding]:
    gpus = hardware.gpus()
    for name, capability in gpus:
        yield Finding("ok", f"GPU {name}, compute capability {capability}")
    if not gpus:
        yield Finding("note", "no NVIDIA GPU, or no driver: some engines for GPUs can be built, none can run")
        return
    cuda = hardware.cuda() or "0"
    yield Finding("ok", f"driver {hardware.driver()}, for CUDA up to {cuda}")
    import torch

    built = torch.version.cuda
    if built is None:
        release, _, _ = torch.__version__.partition("+")
        what, fix = (
            f"PyTorch {torch.__version__} is built for the CPU",
            f"pip install torch=={release} from PyPI, or pycuda",
        )
        yield Finding("note", f"{what}: plans of TensorRT need it, or pycuda, to reach the GPU", fix)
    elif int(built.partition(".")[0]) > int(cuda.partition(".")[0]):
        yield Finding("note", f"PyTorch is built for CUDA {built}, the driver takes {cuda}", "update the driver")


def _onnxruntime(_kind: EngineKind) -> Iterator[Finding]:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    here = onnxruntime.__version__
    needs = _requirements()["onnxruntime"].specifier
    if needs.contains(here, prereleases=True):
        yield Finding("ok", f"engine=onnxruntime_cpu: builds and runs (ONNX Runtime {here})")
    else:
        fix = "pip uninstall onnxruntime-gpu; pip install onnxruntime"
        yield Finding("note", f"engine=onnxruntime_cpu: needs ONNX Runtime {needs}, this is {here}", fix)
    if CUDA in providers and hardware.gpus():
        yield Finding("ok", "engine=onnxruntime_cuda: builds and runs")
    elif hardware.gpus():
        fix = "pip uninstall onnxruntime; pip install onnxruntime-gpu[cuda,cudnn]"
        yield Finding("note", "engine=onnxruntime_cuda: this ONNX Runtime has no CUDA provider", fix)


def _client(kind: EngineKind) -> Iterator[Finding]:
    own = _version(CLIENT)
    if own:
        yield Finding("ok", f"engine={kind.value}: builds and runs; verify runs it in {CLIENT} {own} too")
    else:
        fix = "pip install -e '.[clients]', so that verify runs it there as well"
        yield Finding("note", f"engine={kind.value}: builds and runs; {CLIENT} is not installed", fix)


def _tensorrt(kind: EngineKind) -> Iterator[Finding]:
    from pipeline.runtime import tensorrt_api

    option = f"engine={kind.value}"
    try:
        api = tensorrt_api.load(kind)
        api.builder()
    except UserError as error:
        yield Finding("note", f"{option}: {error.problems[0].what}", error.problems[0].fix)
        return
    targets = ", ".join(api.targets) or "the GPU of this machine"
    runs = [name for name, capability in hardware.gpus() if not api.targets or capability in api.targets]
    where = f"runs on {', '.join(runs)}" if runs else "its plans do not run here"
    yield Finding("ok", f"{option}: builds for {targets} ({api.product}); {where}")


def _installed(kind: EngineKind) -> Iterator[Finding]:
    """A kind without a check of its own: whether its package is there."""
    found = [f"{name} {_version(name)}" for name in KINDS[kind].distributions if _version(name)]
    if found:
        yield Finding("ok", f"engine={kind.value}: {found[0]} is installed")
    else:
        yield Finding("note", f"engine={kind.value}: {KINDS[kind].product} is not installed", install(kind))


def _room() -> Iterator[Finding]:
    """Threads; memory and disk, as the size of a model in fp32 that fits."""
    from pipeline.core import machine
    from pipeline.core.machine import cores
    from pipeline.planning import estimate

    quota = machine.cpu_quota()
    limited = "" if quota is None else f", of a quota of {quota:g} processors"
    yield Finding("ok", f"threads that compute: {cores()}{limited}")
    memory = machine.memory_available()  # in a container what its limit leaves
    free = shutil.disk_usage(ROOT).free
    fits = estimate.largest_in_memory(memory), estimate.largest_on_disk(free)
    for what, size, parameters in zip(("memory", "disk"), (memory, free), fits, strict=True):
        billions = parameters / 1e9
        text = f"{size / 2**30:.0f} GB of {what} free: models of up to about {billions:.1f} billion parameters in fp32"
        state = "ok" if billions >= 0.135 else "wrong"  # SmolLM2-135M
        yield Finding(state, text, "" if state == "ok" else f"free some {what}, or use a larger machine")


def _checkout() -> Iterator[Finding]:
    if not (ROOT / ".dvc").is_dir():
        yield Finding("wrong", f"{ROOT} is not a DVC project", "work in a clone of kvforge, where .dvc/ is")
    elif not (ROOT / ".git").exists():
        yield Finding("wrong", f"{ROOT} is not a git checkout, which DVC needs", "git clone it, or: git init")
    else:
        done = subprocess.run([sys.executable, "-m", "dvc", "version"], cwd=ROOT, capture_output=True, text=True)
        first = (done.stdout or done.stderr).strip().splitlines()[:1]
        if done.returncode:
            yield Finding("wrong", f"DVC does not start: {''.join(first)}", INSTALL)
        else:
            yield Finding("ok", "".join(first))


OF_KIND = {
    EngineKind.onnxruntime: _onnxruntime,
    EngineKind.onnxruntime_client: _client,
    EngineKind.tensorrt: _tensorrt,
    EngineKind.tensorrt_rtx: _tensorrt,
}
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, _checkout, _room, _gpu, *(partial(OF_KIND.get(kind, _installed), kind) for kind in KINDS),
)  # fmt: skip


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _requirements() -> "dict[str, Requirement]":
    """The requirements of every build, by name."""
    from packaging.requirements import Requirement

    return {requirement.name: requirement for requirement in map(Requirement, _project()["dependencies"])}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Print all findings; exit code 1 when one is wrong."""
    usage.no_arguments(main, "doctor", "It changes nothing.")
    wrong = False
    for finding in findings():
        print(finding, flush=True)
        wrong |= finding.state == "wrong"
    sys.exit(int(wrong))


if __name__ == "__main__":
    errors.run(main)
