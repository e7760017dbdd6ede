"""DVC for real, on the tiny point: which stages a change runs, and what comes back from the cache when it is undone.

`pytest -s tests/test_dvc.py` prints the table as it was measured.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.core.tables.stages import downstream
from tests.support.dvc_yaml import params
from tests.support.fakes import fake_distribution, fake_nvidia_smi
from tests.support.points import composed
from tests.support.repository import STAGES, Build, built, edit, locked, of_tiny, override, repro, run
from tests.support.tensorrt import rtx

# A change: an override, or one of EDITS or PACKAGES -> the stages that run, and those that run when it is undone.
# The others of the first come back from the cache then. toolchain is left out: it always runs. `engine+` is engine and
# all that follows from it.
# test_sweep.py has model.seed and engine.threads, the test of TensorRT below the engine and its profile.
ONNXRUNTIME = "another onnxruntime"
TENSORRT = "another TensorRT-RTX"
PACKAGES = {ONNXRUNTIME: "onnxruntime", TENSORRT: "tensorrt-rtx-cu13-bindings"}
TABLE = {
    "nothing": ("", ""),
    # another limit, the same result: nothing follows
    "simplify.timeout_s=500": ("compose simplify", "compose"),
    "a comment in simplify.py": ("simplify", ""),
    # every stage that imports from the folder runs once more; their outputs are equal, so bench does not follow
    "a comment in graph/": ("export simplify quantize engine verify", ""),
    "precision=int8": ("compose quantize+", "compose"),
    ONNXRUNTIME: ("quantize+", ""),
    # the engine of ONNX Runtime comes out as it was: nothing follows
    TENSORRT: ("engine", ""),
    "another gate in conf/": ("compose verify", "compose"),
    "bench.repeats=3": ("compose bench", "compose"),
}
EDITS = {  # file, old text, new text
    "nothing": ("conf/config.yaml", "", ""),  # written again as it is
    "a comment in simplify.py": ("pipeline/simplify.py", "import difflib", "import difflib  # a comment"),
    "a comment in graph/": ("pipeline/graph/pack.py", "import numpy", "# a comment\nimport numpy"),
    "another gate in conf/": ("conf/config.yaml", "kl: 1e-6", "kl: 1e-5"),
}
OVERLOOKED = {"size", "nfiles"}  # keys within a section that DVC's run cache takes for a file's size, and ignores


@dataclass(frozen=True)
class Row:
    """What a change did, and undoing it."""

    changed: Build
    undone: Build
    before: dict[str, Any]  # dvc.lock
    after: dict[str, Any]


def expanded(stages: str) -> list[str]:
    """The stages of a cell of TABLE."""
    cells = [downstream(name[:-1]) if name.endswith("+") else (name,) for name in stages.split()]
    return [stage for cell in cells for stage in cell]


def measure(change: str, folder: Path) -> Row:
    """Make a change in a built repository, build, undo it, build."""
    before = locked(folder)
    variables = {}
    if change in PACKAGES:
        packages = folder.parent / "packages"
        fake_distribution(packages, PACKAGES[change], "9.9.9")
        variables["PYTHONPATH"] = str(packages)
    elif change in EDITS:
        edit(folder, *EDITS[change])
    else:
        override(folder, change)
    changed = repro(folder, **variables)
    if change in EDITS:
        file, old, new = EDITS[change]
        edit(folder, file, new, old)
    elif change not in PACKAGES:
        override(folder)
    return Row(changed, repro(folder), before, locked(folder))


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Row]]]:
    """The rows that are asked for, measured side by side, each in its own copy of a built repository."""
    start = built()
    tests = [item for item in request.session.items if item.nodeid.startswith(request.node.nodeid)]
    changes = [item.callspec.params["change"] for item in tests if hasattr(item, "callspec")]
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 4)) as pool:
        futures = {
            change: pool.submit(measure, change, start.copy(tmp_path_factory.mktemp("row") / "repository"))
            for change in changes
        }
        yield futures
        pool.shutdown(cancel_futures=True)
    print(f"\n{'change':32}{'runs':58}{'undone, runs':15}restored")
    for change, future in futures.items():
        if not future.cancelled() and not future.exception():
            row = future.result()
            kinds = (row.changed.ran, row.undone.ran, row.undone.restored)
            ran, again, restored = (" ".join(of_tiny(stages)).removeprefix("toolchain") for stages in kinds)
            print(f"{change:32}{ran.strip():58}{again.strip():15}{restored}")


@pytest.mark.slow
@pytest.mark.parametrize("change", TABLE)
def test_a_change_runs_what_depends_on_it(change: str, rows: dict[str, Future[Row]]) -> None:
    """A change runs exactly the stages that it can affect; undoing it restores them, and the state is the old one."""
    row = rows[change].result()
    ran, again = (["toolchain", *expanded(stages)] for stages in TABLE[change])
    assert of_tiny(row.changed.ran) == ran
    assert row.changed.restored == []
    assert of_tiny(row.undone.ran) == again
    assert of_tiny(row.undone.restored) == [stage for stage in ran if stage not in again]
    assert row.after == row.before


def test_a_stage_can_be_asked_for() -> None:
    """`dvc repro engine@tiny` in a new repository builds up to the engine, and a later `dvc repro` only the rest."""
    start = built()
    assert of_tiny(start.engine.ran) == list(STAGES[: STAGES.index("engine") + 1])
    assert of_tiny(start.rest.ran) == ["toolchain", *downstream("engine")[1:]]
    assert start.rest.restored == []


@pytest.mark.slow
def test_a_tensorrt_engine_and_its_versions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A plan is built without a GPU, the rest of the point is proven, its network by interpretation, and bench and
    verify say what they left out. With another profile, another version of TensorRT or another GPU only the engine and
    what follows it runs; going back restores them."""
    rtx()
    folder = built().copy(tmp_path_factory.mktemp("tensorrt") / "repository")
    override(folder, "engine=tensorrt_rtx")
    assert of_tiny(repro(folder).ran) == ["toolchain", "compose", *downstream("engine")]
    point = folder / "artifacts/tiny"
    proof, speed = (json.loads((point / name).read_text()) for name in (layout.VERIFY, layout.BENCH))
    assert proof["passed"]
    assert set(proof["artifacts"]) == {"wrapped", "onnx", "simplified", "network", "engine"}
    assert set(proof["artifacts"]["network"]) > set(proof["artifacts"]["simplified"])  # every case, and all greedy text
    assert speed == {"skipped": proof["skipped"]["engine"]}
    assert (point / layout.ENGINE / layout.PLAN).stat().st_size > 10**6
    done = run(folder, "python", "-m", "pipeline.generate", "tiny", "a")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert speed["skipped"] in done.stderr
    packages = folder.parent / "packages"
    fake_distribution(packages, PACKAGES[TENSORRT], "9.9.9")
    smi = fake_nvidia_smi(folder.parent / "bin", "echo 'NVIDIA H200, 9.0'")
    for variables in ({"PYTHONPATH": str(packages)}, {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{smi}"}):
        assert of_tiny(repro(folder, **variables).ran) == ["toolchain", *downstream("engine")]
        undone = repro(folder)
        assert of_tiny(undone.ran) == ["toolchain"]
        assert of_tiny(undone.restored) == [*downstream("engine")]
    override(folder, "engine=tensorrt_rtx", "profile.prefill.sequence.opt=8")
    assert of_tiny(repro(folder).ran) == ["toolchain", "compose", *downstream("engine")]


def test_no_section_hides_a_key_from_the_run_cache() -> None:
    """A key that DVC's run cache overlooks within a section is declared by itself too: else old results come back."""

    def hidden(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from [f"{path}.{key}"] if key in OVERLOOKED else hidden(inner, f"{path}.{key}")

    config = composed(["experiment=tiny"])
    for stage in STAGES[2:]:
        for section in params(stage, None):
            assert set(hidden(config[section], section)) <= params(stage, "params.yaml"), stage
