"""onnxsim's failures are survived and told; its success keeps interface and weights."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Simplify
from pipeline.simplify import attach_weights, counts, detach_weights, memory_limit, simplify
from tests.support.repository import ROOT

LIMITS = {"memory_gb": 8.0, "timeout_s": 300.0}


@pytest.fixture
def model(tiny: tuple[Path, GraphContract]) -> onnx.ModelProto:
    """The exported graph, its weights left in their file."""
    return onnx.load(tiny[0] / layout.ONNX / layout.MODEL, load_external_data=False)


def test_patterns_become_single_nodes(model: onnx.ModelProto) -> None:
    """RMS normalization (2 a layer and 1) and rotary embedding (2 a layer) are recognised, weights stay references."""
    simplified, reason = simplify(model, Simplify(enabled=True, **LIMITS))
    after = counts(simplified)
    assert reason is None
    assert (after["RMSNormalization"], after["RotaryEmbedding"]) == (5, 4)
    assert (after["Attention"], after["TensorScatter"]) == (2, 4)
    weights = [t for t in simplified.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {t.name for t in weights} == {t.name for t in detach_weights(model)}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Simplify(enabled=False, **LIMITS), "simplify.enabled is false"),
        (Simplify(enabled=True, memory_gb=0.2, timeout_s=300.0), "simplify.memory_gb=0.2"),
        (Simplify(enabled=True, memory_gb=8.0, timeout_s=0.05), "simplify.timeout_s=0.05"),
    ],
)
def test_a_failure_leaves_the_graph_as_it_is(model: onnx.ModelProto, options: Simplify, why: str) -> None:
    """A real crash, a passed memory limit, a passed time limit: the reason is kept, the graph goes on."""
    before = model.SerializeToString(deterministic=True)
    simplified, reason = simplify(model, options)
    assert reason is not None
    assert why in reason
    assert simplified.SerializeToString(deterministic=True) == before


def container(folder: Path, memory: int) -> Path:
    """The kernel's files of a container with so much memory, in bytes."""
    for name, text in (("proc/self/cgroup", "0::/"), ("sys/fs/cgroup/memory.max", str(memory))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_onnxsim_gets_no_more_memory_than_there_is(tmp_path: Path) -> None:
    """The least of what the config says and what a container has, said by its name; the container's limit is on
    memory, so that address space which takes none is added."""
    container(tmp_path, 2**28)
    limit, text = memory_limit(1000.0, tmp_path)
    assert 2**29 < limit < 2**29 + 2**26 * (os.cpu_count() or 1) + 1
    assert text == f"this machine's or container's memory of 0.25 GB (address space {limit / 2**30:.2g} GB)"
    assert memory_limit(0.125, tmp_path) == (2**27, "simplify.memory_gb=0.125 (of address space)")


def test_a_small_container_is_enough(model: onnx.ModelProto, tmp_path: Path) -> None:
    """onnxsim holds 0.15 GB of memory for this graph and maps 0.3: a container of 0.2 GB does not stop it, which
    simplify.memory_gb=0.2 does, above."""
    limit, _ = memory_limit(1000.0, container(tmp_path, int(0.2 * 2**30)))
    assert simplify(model, Simplify(enabled=True, memory_gb=limit / 2**30, timeout_s=300.0))[1] is None


ULIMIT = """
import sys, onnx
from pipeline.simplify import memory_limit, simplify
from pipeline.core.schema import Simplify
model = onnx.load(sys.argv[1], load_external_data=False)
print(memory_limit(8.0)[1], simplify(model, Simplify(enabled=True, memory_gb=8.0, timeout_s=300.0))[1], sep="; ")
"""


def test_an_existing_ulimit_is_kept(tiny: tuple[Path, GraphContract]) -> None:
    """A hard limit below simplify.memory_gb is not raised, which would fail; onnxsim runs within it."""
    command = [sys.executable, "-c", ULIMIT, str(tiny[0] / layout.ONNX / layout.MODEL)]
    shell = 'ulimit -v 1000000; exec "$@"'
    done = subprocess.run(["bash", "-c", shell, "bash", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ulimit -v of 0.95 GB; None\n"


def test_an_unknown_pass_is_named(model: onnx.ModelProto) -> None:
    """onnxsim itself would ignore it."""
    with pytest.raises(UserError, match=r"no pass fuse_bn_into_cow(.|\n)*fuse_bn_into_conv"):
        simplify(model, Simplify(enabled=True, skip=["fuse_bn_into_cow"], **LIMITS))


def test_weights_come_back_as_they_were(model: onnx.ModelProto) -> None:
    """Detaching and attaching again restores inputs and initializers."""
    inputs, initializers = [i.name for i in model.graph.input], {t.name for t in model.graph.initializer}
    weights = detach_weights(model)
    assert weights
    assert not {t.name for t in weights} & {t.name for t in model.graph.initializer}
    attach_weights(model, weights)
    assert [i.name for i in model.graph.input] == inputs
    assert {t.name for t in model.graph.initializer} == initializers
