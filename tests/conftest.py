"""Fixtures that several test files share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from benchmarks.in_process import run
from pipeline import bench, quantize, verify
from pipeline.core import hardware, layout
from pipeline.core.contract import GraphContract
from tests.support import common
from tests.support.architectures import random_model
from tests.support.clients import engine_for_clients
from tests.support.points import build_once

# how long an example takes is the machine's affair; the rest is hypothesis' default, on CI its own for CI
settings.register_profile("kvforge", settings.default, deadline=None)
settings.load_profile("kvforge")

# files that take longest: the real model and DVC's builds minutes, the others 20 s and more
FIRST = (
    "test_smollm2",
    "test_dvc",
    "test_resilience",
    "test_sweep",
    "test_sharing",
    "test_interpreter",
    "test_verify",
    "test_quantize",
    "test_quantize",
)


def pytest_configure() -> None:
    """A worker of pytest-xdist and all that it starts keep to one core: two that share both wait in each other's
    spin locks, and take twice as long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)  # it counted the cores when it was imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no worker is left alone with one at the end; what needs a GPU is skipped where
    there is none."""
    if not hardware.gpus():
        skipped = pytest.mark.skip(reason="needs an NVIDIA GPU and its driver; make gpu-check runs it there")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skipped)
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def gpus_are_asked_anew() -> Iterator[None]:
    """No test sees the GPUs that another one made up."""
    clear = hardware.gpus.cache_clear  # now: the test may put another function in its place
    clear()
    yield
    clear()


@pytest.fixture(scope="session", autouse=True)
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is built once in a test run has its place."""
    common.use(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """A tiny Llama with random weights, built up to its engine: its folder and its contract. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, build_once(folder, [])


@pytest.fixture(scope="session")
def proven() -> Path:
    """A tiny Llama with weights of 8 bits, verified and measured; the folder. Not to be changed."""
    with common.once("proven") as (folder, made):
        point = folder / "tiny"
        if not made:
            build_once(point, ["precision=int8"])
            for last in (verify, bench):
                run(last, point)
    return point


@pytest.fixture(scope="session")
def client(tiny: tuple[Path, GraphContract], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """The tiny Llama with an engine for clients in place of its own. Not to be changed."""
    folder = Path(shutil.copytree(tiny[0], tmp_path_factory.mktemp("client") / "point", symlinks=True))
    engine_for_clients(folder)
    return folder, tiny[1]


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """The tiny Llama in fp16, as a portable model. Not to be changed."""
    folder = tmp_path_factory.mktemp("half")
    return folder, build_once(folder, ["engine=tensorrt_rtx", "precision=fp16"], quantize)


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """A tiny Gemma 2 with soft-capped scores and a sliding window in every other layer, as a portable model."""
    folder = tmp_path_factory.mktemp("window")
    return folder, build_once(folder, [], quantize, model=random_model("gemma2"))


@pytest.fixture
def tiny_copy(tiny: tuple[Path, GraphContract], tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the tiny point, to be changed at will."""
    return lambda: Path(shutil.copytree(tiny[0], tmp_path / "point", symlinks=True))


@pytest.fixture
def speaking(tmp_path: Path) -> Path:
    """A point of which only a tokenizer and its texts are there: word n of 100 is token n, and 0 starts a text."""
    words = Tokenizer(WordLevel({"<s>": 0} | {f"w{n}": n for n in range(1, 100)}, "<s>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(tmp_path / layout.WRAPPED)
    for name in (layout.TEXT, layout.CALIBRATION):
        (tmp_path / name).write_text(" ".join(f"w{n}" for n in range(1, 100)))
    return tmp_path
