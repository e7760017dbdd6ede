"""The cache is written in place: one buffer on both sides, and nothing that ONNX Runtime would copy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.runtime.onnxruntime import FLASH_ATTENTION_OFF, OnnxRuntime
from pipeline.runtime.open import open_engine
from tests.support.points import ROOT, build


def test_past_and_present_are_one_buffer(tiny: tuple[Path, GraphContract], capfd: pytest.CaptureFixture[str]) -> None:
    """KV bytes copied per step: 0. The outputs are the session's own arrays, and ONNX Runtime's log is silent
    (it warns of each TensorScatter whose past and present lie apart, as the last lines show)."""
    folder, contract = tiny
    runtime = OnnxRuntime(folder / layout.SIMPLIFIED / layout.MODEL, contract, Profiles.of_axes(contract))
    session = runtime.session(2)
    addresses = [cache.ctypes.data for cache in session.caches]
    for tokens in ([[1, 2, 3], [4]], [[5], [6]], [[7, 8], [9, 10]]):
        session.step(tokens)
    assert [cache.ctypes.data for cache in session.caches] == addresses
    *present, _logits = session._binding.get_outputs()  # type: ignore[attr-defined]  # in the order in which they were bound
    assert [value.data_ptr() for value in present] == addresses
    assert all((cache[0, :, :6] != 0).any() and (cache[:, :, 6:] == 0).all() for cache in session.caches)
    assert capfd.readouterr().err == ""
    feeds = {t.name: np.ones(t.sized(batch=2, sequence=1), t.dtype) for t in contract.inputs}
    runtime.inference.run(None, feeds)
    assert "TensorScatter" in capfd.readouterr().err


@pytest.mark.parametrize("optimization", ["none", "basic", "extended"])
def test_every_optimization_level_gives_the_same(tiny: tuple[Path, GraphContract], optimization: str) -> None:
    """ONNX Runtime's fusions change the speed, not the answer."""
    folder, contract = tiny
    model = folder / layout.SIMPLIFIED / layout.MODEL
    steps = ([[1, 2, 3], [4, 5]], [[6], [7]])
    results = []
    for level in (optimization, "all"):
        runtime = OnnxRuntime(model, contract, Profiles.of_axes(contract), optimization=level, threads=1)
        session = runtime.session(2)
        results.append([session.step(tokens) for tokens in steps])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


HELD = """
import sys
from pathlib import Path
import psutil
from pipeline.runtime.open import open_engine
session = open_engine(Path(sys.argv[1])).session(1)
for cache in session.caches:
    cache[...] = 0  # makes its pages
for start, count in ((0, 1), (7900, 256), (8156, 1)):
    session.lengths[:] = start
    session.step([[1] * count])
    print(psutil.Process().memory_info().rss >> 20)
"""


def test_a_prompts_activations_are_given_back(tmp_path: Path) -> None:
    """A piece of 256 tokens late in a cache of 8,192 slots has 34 MB of scores; decoding holds nothing like it. In a
    process of its own: one that has freed much before may keep what is given back to it."""
    build(tmp_path, ["cache.size=8192", "axes=default", "profile=default"])
    command = [sys.executable, "-c", HELD, str(tmp_path / layout.ENGINE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, prompt, decode = map(int, done.stdout.split())
    assert prompt - before > 20
    assert decode - before < 10


FLASH = """
import hashlib, os, sys
from pathlib import Path
from pipeline.runtime.open import open_engine
runtime = open_engine(Path(sys.argv[1]))
os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "0"  # too late
print(hashlib.sha256(runtime.session(1).step([list(range(1, 65))]).tobytes()).hexdigest())
"""


def test_opening_an_engine_leaves_the_environment_alone(tiny: tuple[Path, GraphContract]) -> None:
    """The variable that switches flash attention off is there while ONNX Runtime makes its kernels, and then gone; a
    value of the user's holds. The two kernels round otherwise, so their bits tell which one ran."""

    def bits(**variables: str) -> str:
        environment = {key: text for key, text in os.environ.items() if key != FLASH_ATTENTION_OFF} | variables
        command = [sys.executable, "-c", FLASH, str(tiny[0] / layout.ENGINE)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert bits() == bits(**{FLASH_ATTENTION_OFF: "1"}) != bits(**{FLASH_ATTENTION_OFF: "0"})
    before = dict(os.environ)
    open_engine(tiny[0] / layout.ENGINE)
    assert dict(os.environ) == before


def test_an_engine_opens_under_a_limit_of_address_space(tiny: tuple[Path, GraphContract]) -> None:
    """ulimit -v, as batch systems set it: weights are mapped, large pages asked for, a step runs."""
    code = "import sys; from pathlib import Path; from pipeline.runtime.open import open_engine; "
    code += "print(open_engine(Path(sys.argv[1])).session(1).step([[1, 2]]).shape)"
    command = [sys.executable, "-c", code, str(tiny[0] / layout.ENGINE)]
    shell = ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "bash", *command]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(1, 1, 512)\n", done.stderr


def test_weights_move_after_the_first_token(tiny: tuple[Path, GraphContract]) -> None:
    """Not before it, once for all sessions, and a measurement waits for it."""
    runtime = open_engine(tiny[0] / layout.ENGINE)
    assert isinstance(runtime, OnnxRuntime)
    moving = runtime._moving
    assert moving is not None
    first, second = runtime.session(1), runtime.session(1)
    first.step([[1, 2]])
    second.step([[1]])
    assert moving.ident is None
    first.step([[3]])
    assert moving.ident is not None
    second.step([[3]])
    runtime.finish_loading()
    assert not moving.is_alive()
