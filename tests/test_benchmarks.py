"""The benchmark's arithmetic and tables, and one real worker. Peers are not installed here: `make bench` runs them."""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import builds, cache, report, text
from benchmarks.cases import SETS, Case, interleaved
from benchmarks.fleet import Worker
from benchmarks.peers import UnsupportedError, chunks, nll
from benchmarks.peers.kvforge import System as Kvforge
from benchmarks.points import CACHES, PRECISIONS
from benchmarks.systems import GROWING, PEERS, System, chosen, engine
from pipeline.config.compose import compose
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.runtime.open import open_engine

TINY = Case(batch=2, prompt=5, new=6, cache=64)


def row(system: str, precision: str, tokens: float | None, **others: Any) -> report.Row:
    """A row of the results."""
    names = ("point", "prefill_s", "peak_mb", "model_mb", "perplexity", "share_of_bandwidth", "build_s", "why")
    row = dict.fromkeys(names) | {"batch": 1, "prompt": 44, "cache": 1024, "read_gb_s": 20.0}
    return row | {"system": system, "precision": precision, "decode_tok_s": tokens} | others


def test_interleaved() -> None:
    """Each system runs once a round, and each round begins with another one."""
    order = list(interleaved(["a", "b", "c"], 4))
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [number for number, _ in order] == [n for n in range(4) for _ in range(3)]
    assert list(interleaved([], 2)) == []


@pytest.mark.parametrize("case", {case for cases in SETS.values() for case in cases}, ids=str)
def test_cases_fit(case: Case) -> None:
    """Every case fits its cache and the text, and a growing cache is not measured once for each size."""
    assert case.prompt + case.new <= case.cache
    assert 97 * case.batch + case.prompt <= text.TOKENS
    assert System("x", "fp32", "x", cache=GROWING).takes(case) == (case.cache == 1024 or case.prompt == 2000)
    assert System("x", "fp32", "x", cache=512).takes(case) == (case.cache == 512)


def test_prompts_and_windows() -> None:
    """Rows differ; windows hold the whole text once."""
    tokens = list(range(text.TOKENS))
    first, second = text.prompts(tokens, 2, 16)
    assert len(first) == len(second) == 16
    assert first != second
    assert [token for window in text.windows(tokens) for token in window] == tokens


def test_speeds_are_medians() -> None:
    """One slow step and one slow round change nothing."""
    answers = [
        {"prefill_s": prefill, "steps_s": steps, "peak_mb": peak}
        for prefill, steps, peak in ((0.2, [0.1, 0.1, 9.0], 50), (0.1, [0.1, 0.1], 70), (8.0, [0.1, 5.0], 60))
    ]
    assert report.speeds(answers, batch=4) == {"prefill_s": 0.2, "decode_tok_s": 40, "peak_mb": 70, "rounds": 3}


def test_ratio_is_to_the_best_peer_of_the_precision() -> None:
    """Not to this project's other engines, not to other precisions or cases; Q4_1 counts as int4."""
    ours = row("kvforge", "int4", 90, prefill_s=0.1)
    rows = [
        ours,
        row("kvforge", "int4", 500, prefill_s=0.001),
        row("llama.cpp", "Q4_1", 60, prefill_s=0.3),
        row("openvino", "int4", 45, prefill_s=0.05),
        row("pytorch", "fp32", 300, prefill_s=0.001),
        row("openvino", "int4", 900, batch=8, prefill_s=0.001),
    ]
    assert report.ratio(ours, rows, "decode_tok_s") == (1.5, "llama.cpp Q4_1")
    assert report.ratio(ours, rows, "prefill_s") == (0.5, "openvino int4")
    for precision in ("fp16", "int4-exact"):
        assert report.ratio(row("kvforge", precision, 30), rows, "decode_tok_s") == (0.1, "pytorch fp32")
    assert report.ratio(row("kvforge", "int4", None), rows, "decode_tok_s") is None
    assert report.ratio(ours, [ours], "decode_tok_s") is None


def test_ratio_to_no_better() -> None:
    """Of any precision, but not those that read better than ours by more than half a percent."""
    ours = row("kvforge", "int8", 90, perplexity=15.0)
    rows = [
        ours,
        row("openvino", "int8", 200, perplexity=14.9),
        row("llama.cpp", "Q4_1", 60, perplexity=14.95),
        row("onnxruntime-genai", "int4", 45, perplexity=26.1),
        row("mobius", "int4", 300),
    ]
    assert report.ratio_to_no_better(ours, rows, "decode_tok_s") == (1.5, "llama.cpp Q4_1")
    assert report.ratio_to_no_better(ours, rows[:2], "decode_tok_s") is None
    assert report.ratio_to_no_better(row("kvforge", "int8", 90), rows, "decode_tok_s") is None


def test_table() -> None:
    """A section for each case, fastest first, the engines' memory, and a line for what is missing."""
    memory = {"session_mb": 700.4, "model_mb": 517.0, "cache_mb": 45.0, "overhead_mb": 138.4}
    rows = [
        row("pytorch", "fp32", 20.0, perplexity=14.92),
        row("kvforge", "fp32", 40.0, point="smollm2", share_of_bandwidth=0.5, **memory),
        row("mobius", "fp32", None, why="ImportError: no mobius", batch=None, prompt=None, cache=None),
        row("openvino", "fp32", None, why="out of memory", batch=8),
    ]
    table = report.table(rows, 2)
    assert "20.0 GB/s" in table
    assert table.count("###") == 1
    assert table.index("| **smollm2** | fp32 | 40.0 (2.00) |") < table.index("| pytorch | fp32 | 20.0 |")
    assert "| 50% |" in table
    assert "* smollm2 fp32: 700 MB = model 517 + cache 45 + 138\n" in table
    assert "* mobius fp32: ImportError: no mobius\n" in table
    assert "* openvino fp32, batch 8, prompt 44, cache 1024: out of memory\n" in table


def test_builds() -> None:
    """Time of all steps together, the hungriest one's memory, medians over rounds."""
    rounds = [{"wrap": (wrap, 900.0), "export": (2.0, 1000.0)} for wrap in (4.0, 3.0, 90.0)]
    found = builds.rows({"kvforge": rounds, "mobius": [{"build": (5.0, 800.0)}]})
    assert [(row["system"], row["seconds"], row["peak_mb"]) for row in found] == [
        ("kvforge", 6.0, 1000),
        ("mobius", 5.0, 800),
    ]
    assert builds.table(found).splitlines()[2:] == [
        "| mobius | 5.0 | 800 | build 5.0 |",
        "| kvforge | 6.0 | 1000 | wrap 4.0, export 2.0 |",
    ]


def test_share_and_common_start() -> None:
    """A step of a batch reads the weights once for all of its rows."""
    assert report.share(1e9, row("x", "fp32", 40, batch=4), 20e9) == 0.5
    assert report.share(None, row("x", "fp32", 40), 20e9) is None
    assert report.common_start([1, 2, 3], [1, 2, 4]) == 2
    assert report.common_start([1, 2], [1, 2, 4]) == 2


def test_chosen() -> None:
    """By name, by name and precision, and a wrong name is refused."""
    assert len(chosen(PEERS, "")) == len(PEERS)
    assert [str(s) for s in chosen(PEERS, "mobius, openvino int8")] == ["mobius fp32", "mobius int4", "openvino int8"]
    with pytest.raises(SystemExit, match=r"no system 'vllm'; choose from .*openvino"):
        chosen(PEERS, "vllm")


@pytest.mark.parametrize("name", PRECISIONS | CACHES)
def test_points_compose(name: str) -> None:
    """The points that are built for the benchmark are valid configurations, and what their names say."""
    composed = compose((PRECISIONS | CACHES)[name])
    quantized = f"smollm2-{composed.quantize.weights.name}" + "-exact" * (not composed.engine.int8_activations)
    assert name in ("smollm2", quantized, f"smollm2-cache{composed.cache.size}")


def test_nll() -> None:
    """-log p, summed, without overflow."""
    logits = np.array([[0.0, math.log(3.0)], [1e4, 1e4]], np.float32)
    assert nll(logits, [1, 0]) == pytest.approx(math.log(4 / 3) + math.log(2))


def test_chunks_and_the_tokens_after_them() -> None:
    """Each token but the first is predicted once."""
    found = list(chunks([1, 2, 3, 4, 5], 2))
    assert found == [([1, 2], [2, 3]), ([3, 4], [4, 5]), ([5], [])]
    assert list(chunks([1, 2], 2)) == [([1, 2], [2])]


def test_table_of_caches() -> None:
    """Ratios to the first cache of the same system; what was not measured is empty."""
    rows = [
        {"system": "a", "cache": "fp32", "bytes": 2000, "ms8": 4.0, "nlls": [1.0, 2.0]},
        {"system": "a", "cache": "8 bits", "bytes": 500, "ms8": 2.0, "nlls": [1.1, 2.1]},
        {"system": "b", "cache": "fp16"},
    ]
    lines = cache.table(rows, [8]).splitlines()
    assert lines[2:] == [
        "| a | fp32 | 2,000 | 4.0 | 1.00 | 4.482 | |",
        "| a | 8 bits | 500 | 2.0 | 2.00 | 4.953 | +10.52% ± 0.00% |",
        "| b | fp16 | | | | | |",
    ]


@pytest.fixture
def worker(tiny: tuple[Path, GraphContract], tmp_path: Path) -> Iterator[Worker]:
    """A worker with the tiny engine."""
    (tmp_path / "tokens.json").write_text(json.dumps([i % 50 for i in range(400)]))
    request = {"module": "kvforge", "folder": str(tiny[0] / layout.ENGINE), "options": {}, "threads": 2}
    worker = Worker(request | {"tokens": str(tmp_path / "tokens.json")}, tmp_path / "log")
    yield worker
    worker.close()


def test_worker(worker: Worker, tiny: tuple[Path, GraphContract]) -> None:
    """It loads, measures, says why it cannot, goes on after that, and is held still between questions."""
    assert worker.ready["load_s"] > 0
    assert 0 < worker.ready["weight_bytes"] < sum(f.stat().st_size for f in (tiny[0] / layout.ENGINE).iterdir())
    question = {"do": "case", **vars(TINY)}
    answer = worker.ask(question)
    assert answer["prefill_s"] > 0
    assert len(answer["steps_s"]) == 6
    assert min(answer["steps_s"]) > 0
    assert len(answer["tokens"]) == 7
    assert answer["peak_mb"] > 1
    assert "cache has 64 slots" in worker.ask(question | {"cache": 128})["why"]
    assert "do not fit" in worker.ask(question | {"new": 70})["why"]
    assert worker.ask(question)["tokens"] == answer["tokens"]
    assert 1 < worker.ask({"do": "memory", "cache": 64})["session_mb"] < 4096
    assert "why" in worker.ask({"do": "memory", "cache": 65})
    assert psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED


def test_worker_fills_its_cache_and_reads(worker: Worker) -> None:
    """Steps on a filled cache, and an engine with too few logits for a text."""
    assert worker.ask({"do": "fill", "used": 60, "slots": 64})["bytes"] == 2 * 2 * 2 * 16 * 4
    assert len(worker.ask({"do": "steps", "count": 3})["steps_s"]) == 3
    assert "do not fit" in worker.ask({"do": "steps", "count": 3})["why"]
    assert worker.ask({"do": "end"}) == {}
    assert "wrap.logits=all" in worker.ask({"do": "read", "chunk": 32})["why"]


def test_worker_that_does_not_load(tmp_path: Path) -> None:
    """The reason is the answer, and later questions get one too."""
    (tmp_path / "tokens.json").write_text("[]")
    request = {"module": "kvforge", "folder": str(tmp_path), "options": {}, "threads": 1}
    worker = Worker(request | {"tokens": str(tmp_path / "tokens.json")}, tmp_path / "log")
    assert "no engine in" in worker.ready["why"]
    assert "why" in worker.ask({"do": "perplexity"})
    worker.close()


def test_kvforge(tiny: tuple[Path, GraphContract]) -> None:
    """The engine's system names itself, and its nll is that of the steps' logits."""
    folder = tiny[0] / layout.ENGINE
    system = engine(folder)
    assert (system.name, system.precision, system.cache) == ("kvforge", "fp32", 64)
    assert system.cache_mb * 2**20 == sum(cache.nbytes for cache in open_engine(folder).session(1).caches)
    peer = Kvforge(folder, {}, 2)
    windows = [[1, 2, 3, 4], [5, 6, 7, 8]]
    total = 0.0
    for window in windows:
        session = peer.runtime.session(1)
        for token, following in pairwise(window):
            total += nll(session.step([[token]])[:, -1], [following])
    assert peer.nll(windows) == pytest.approx(total, rel=1e-5)
    with pytest.raises(UnsupportedError):
        peer.begin(1, 65)
