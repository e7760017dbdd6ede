"""dvc.yaml against the code: each stage declares the modules, config sections and packages that it really uses.

A stage that declares too little serves stale results; one that declares too much runs for nothing.
"""

import ast
import subprocess
import sys

import pytest

from pipeline import toolchain
from pipeline.core.tables import stages
from pipeline.core.tables.stages import NAMES, OF_A_POINT
from tests.support.dvc_yaml import STAGES, declared, params
from tests.support.imports import closure, folder, imports, tree
from tests.support.repository import ROOT

BY_NAME = {stage.name: stage for stage in stages.STAGES}
HARDWARE = {"engine": {"gpu"}, "verify": {"cpu", "gpu"}, "bench": {"cpu", "gpu"}}
KEYS = {  # imported package -> its key in toolchain.json
    "torch": "torch",
    "transformers": "transformers",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "onnxruntime_genai": "onnxruntime_genai",
    "gguf": "gguf",
}
# used without an import statement: onnxsim is run as a command, TensorRT is imported by name
INDIRECT = {"simplify": {"onnxsim"}, "backends.tensorrt.network": {"tensorrt", "tensorrt_rtx"}}
LENDS_MEMORY = {"runtime.device": {"torch", "pycuda"}}  # module -> packages that it computes nothing with
# engine.json holds the version that built a plan: another one reaches verify through engine/, and only where it matters
IN_ENGINE = {"verify": {"tensorrt", "tensorrt_rtx"}}
# their version does not show in the results
WITHOUT_KEY = {
    "huggingface_hub",
    "hydra",
    "ml_dtypes",
    "numpy",
    "omegaconf",
    "packaging",
    "psutil",
    "ruamel",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "tqdm",
    "yaml",
}


def sections(module: str) -> set[str]:
    """Config sections read through `section(X)` in a module's closure."""
    return {
        node.args[0].id.lower()
        for name in closure(module)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "section"
        and isinstance(node.args[0], ast.Name)
    }


def packages(module: str) -> set[str]:
    """Third-party packages that a module's closure imports."""
    tops: set[str] = set()
    for name in closure(module):
        tops |= {dotted.split(".")[0] for dotted in imports(name)} - LENDS_MEMORY.get(name, set())
    return tops - set(sys.stdlib_module_names) - {"pipeline"}


def assert_same(stage: str, what: str, found: set[str], wanted: set[str]) -> None:
    """Fail with what has to be written."""
    add, remove = sorted(wanted - found), sorted(found - wanted)
    assert not add + remove, f"dvc.yaml, stage {stage}, {what}: add {add}, remove {remove}"


def test_all_stages_are_there() -> None:
    """Every stage of the design stands in dvc.yaml, in order."""
    assert tuple(STAGES) == NAMES


@pytest.mark.parametrize("stage", NAMES)
def test_deps_are_the_import_closure(stage: str) -> None:
    """A stage depends on exactly its inputs, its own file and the folders of the modules that it imports."""
    up = "../../" if "wdir" in declared(stage) else ""
    wanted = set(BY_NAME[stage].inputs) | {f"{up}pipeline/{folder(name) or name + '.py'}" for name in closure(stage)}
    assert_same(stage, "deps", set(declared(stage)["deps"]), wanted)


@pytest.mark.parametrize("stage", NAMES)
def test_outs_are_what_a_stage_writes(stage: str) -> None:
    """Of the point's folder, metrics and plots included."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in declared(stage).get(kind, [])]
    paths = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    assert_same(stage, "outs", {path.removeprefix("artifacts/${key}/") for path in paths}, set(BY_NAME[stage].outputs))


@pytest.mark.parametrize("stage", OF_A_POINT)
def test_params_are_the_sections_read(stage: str) -> None:
    """A stage declares exactly the sections of params.yaml that it reads."""
    assert_same(stage, "params", params(stage, None), sections(stage))


@pytest.mark.parametrize("stage", OF_A_POINT)
def test_toolchain_keys_are_the_packages_used(stage: str) -> None:
    """A stage declares the version of every package that it uses, and the hardware that it runs on."""
    used = packages(stage)
    unknown = used - KEYS.keys() - WITHOUT_KEY
    assert not unknown, (
        f"give {sorted(unknown)} a key in pipeline/toolchain.py, or list it in WITHOUT_KEY with a reason"
    )
    indirect = {key for name in closure(stage) for key in INDIRECT.get(name, set())}
    wanted = {KEYS[name] for name in used & KEYS.keys()} | indirect | HARDWARE.get(stage, set())
    wanted -= IN_ENGINE.get(stage, set())
    assert_same(stage, "../toolchain.json", params(stage, "../toolchain.json"), wanted)


def test_toolchain_knows_the_keys() -> None:
    """Every key that a stage declares is one that the toolchain stage writes."""
    written = {"python", "cpu", "gpu", *toolchain.PACKAGES}
    assert {key for stage in OF_A_POINT for key in params(stage, "../toolchain.json")} <= written


def test_a_stage_imports_no_stage() -> None:
    """Files are the interface between stages, so that one stage's code does not rerun another."""
    for stage in NAMES:
        assert not closure(stage) & set(NAMES) - {stage}, stage


@pytest.mark.parametrize("stage", OF_A_POINT)
def test_stages_run_in_the_points_folder(stage: str) -> None:
    """The run cache is keyed relative to wdir, so equal stages of two points share one run."""
    assert declared(stage)["wdir"] == "artifacts/${key}"
    assert declared(stage)["cmd"] == f"PYTHONPATH=../.. python -m pipeline.{stage}"


def test_dvc_accepts_it() -> None:
    """DVC itself reads dvc.yaml and finds a stage for each point."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {"toolchain", "compose@smollm2", "bench@smollm2"} <= set(done.stdout.split())
