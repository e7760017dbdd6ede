"""collect: a point's artifacts as a record, whatever is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core import layout
from pipeline.reporting import collect
from pipeline.reporting.collect import Sources, model_name, thinned
from pipeline.reporting.estimates import NoEstimates
from pipeline.reporting.records import FAILED, NOT_RUN, OUTDATED, UNBUILT, UNFINISHED, VERIFIED, Point
from tests.support import reports


@pytest.fixture
def built(proven: Path, tmp_path: Path) -> Path:
    """A copy of a built point in a folder of points; to be changed at will."""
    return reports.copy(proven, tmp_path / "p")


def read(built: Path, **more: Any) -> Point:
    """The record of a point."""
    return collect.point(built.name, ["experiment=tiny"], Sources(built.parent, NoEstimates(), **more))


def test_a_built_point(built: Path) -> None:
    """Its figures are those of the reports of the stages."""
    found = read(built)
    accuracy, bench = (json.loads((built / name).read_text()) for name in (layout.ACCURACY, layout.BENCH))
    assert (found.state, found.why, found.overrides) == (VERIFIED, (), ("experiment=tiny",))
    assert found.quality == accuracy["engine"]
    assert found.increase == accuracy["engine"]["perplexity_increase"]
    assert found.speed
    assert {name: getattr(found.speed, name) for name in bench} == bench
    assert len(found.speed.steps) == 16
    assert found.speed.steps[0][0] == 16  # the tokens of the prompt
    assert found.kind == "int8"
    assert found.model.startswith("random llama, seed 0 (head_dim 16, ")
    assert found.settings["cache.size"] == 64
    assert found.cache_mb == 2 * 2 * 2 * 16 * 64 * 4 / 2**20  # layers, keys and values, heads, width, slots, bytes
    assert len(found.artifacts) == len(found.operators) == 5
    assert found.rounded
    assert len(found.texts) == 3
    assert found.no_plan == "not asked for (--no-plan)"


def test_a_point_that_was_not_built(tmp_path: Path) -> None:
    """Says how to build it; one whose first stage failed is a failure."""
    found = read(tmp_path / "p")
    assert (found.state, found.why) == (UNBUILT, ("build it: dvc repro verify@p bench@p",))
    (tmp_path / "p").mkdir()
    reports.lineage(tmp_path / "p", compose="failed")
    assert read(tmp_path / "p").state == FAILED


def test_a_missed_gate(built: Path) -> None:
    """The first failures are the reason; the figures are shown all the same."""

    def fail(report: dict[str, Any]) -> None:
        report["passed"] = False
        for number, case in enumerate(report["artifacts"]["engine"].values()):
            case |= {"passed": False, "failures": [f"kl is {number}"]}

    reports.edit(built / layout.VERIFY, fail)
    found = read(built)
    assert found.state == FAILED
    assert found.why[0] == "artifact engine, case contract: kl is 0"
    assert found.why[3].endswith(" more cases failed")
    assert found.quality
    assert found.speed


def test_a_stage_that_failed(built: Path) -> None:
    """Its error is the reason, and what later stages left of an earlier build is not shown."""
    (built / layout.SIMPLIFIED).rename(built.parent / "gone")
    found = read(built)
    assert (found.state, found.speed, found.artifacts, found.quality) == (UNFINISHED, None, (), {})
    assert found.why == ("stage simplify has not run, or failed: dvc repro verify@p bench@p",)
    reports.lineage(built, simplify="failed", quantize="skipped")
    found = read(built)
    assert (found.state, found.why) == (FAILED, ("stage simplify: error: out of patience",))
    assert (found.built, found.host) == ("2026-11-28T12:00:00+00:00", "here")


def test_a_failure_that_has_been_mended(built: Path) -> None:
    """By dvc repro, which leaves the lineage as it was: the stage's files are there."""
    reports.lineage(built, simplify="failed", verify="failed")
    assert read(built).state == VERIFIED


def test_an_engine_of_another_machine(built: Path) -> None:
    """It is neither verified nor failed; why there is no speed is said."""
    reports.edit(built / layout.VERIFY, lambda report: report["skipped"].update(engine="no GPU"))
    (built / layout.BENCH).write_text('{"skipped": "no GPU"}')
    found = read(built)
    assert (found.state, found.why) == (NOT_RUN, ("the engine was not run: no GPU",))
    assert (found.speed, found.not_measured) == (None, "no GPU")


def test_changed_parameters(built: Path) -> None:
    """The figures are of others."""
    lock = {"compose@p": {"params": {"params.yaml": {"points.p": ["experiment=tiny", "cache.size=32"]}}}}
    found = read(built, lock=lock)
    assert (found.state, found.why) == (
        OUTDATED,
        ("its overrides were experiment=tiny cache.size=32 when it was built",),
    )


def test_damaged_files_are_named(built: Path) -> None:
    """And the rest is shown."""
    (built / layout.BENCH).write_text("{")
    (built / layout.LATENCY).write_text("{")
    (built / layout.ENGINE / layout.ENGINE_INFO).write_text("[]")
    (built / layout.QUANTIZED / layout.QUANTIZATION).write_text('{"tensors": []}')
    found = read(built)
    assert [reason.partition(" ")[2].partition(":")[0] for reason in found.why] == [
        "is not valid JSON", "holds a list, not a JSON object",
    ]  # fmt: skip
    assert (found.speed, found.cache_mb, found.rounded) == (None, None, ())
    assert found.artifacts


@pytest.mark.parametrize("text", ["{", "cache: {size: many}", "gone: 1", "[]", ""])
def test_parameters_of_another_version(built: Path, text: str) -> None:
    """Nothing else of the point is read then."""
    (built / layout.PARAMS).write_text(text)
    found = read(built)
    assert (found.state, found.model) == (OUTDATED, "")
    assert found.why[0] == "params.yaml is damaged, or of another version of kvforge: dvc repro compose@p"


@pytest.mark.parametrize(
    ("weights", "compute", "cache", "kind"),
    [
        ("none", "bf16", "auto", "bf16"),
        ("int4", "fp16", "auto", "int4 in fp16"),
        ("none", "fp32", "int8", "fp32, int8 cache"),
    ],
)
def test_kinds(built: Path, weights: str, compute: str, cache: str, kind: str) -> None:
    """What is stored, and what is computed in if that says more."""
    params = yaml.safe_load((built / layout.PARAMS).read_text())
    params["quantize"]["weights"], params["precision"]["compute"], params["cache"]["dtype"] = weights, compute, cache
    (built / layout.PARAMS).write_text(yaml.safe_dump(params))
    assert read(built).kind == kind


@pytest.mark.parametrize(
    ("engine", "provider", "kind"),
    [
        ("onnxruntime", "CUDAExecutionProvider", "int8, CUDA"),
        ("onnxruntime_client", "CPUExecutionProvider", "int8, for clients"),
        ("tensorrt_rtx", None, "int8, TensorRT-RTX"),
    ],
)
def test_kinds_of_other_engines(built: Path, engine: str, provider: str | None, kind: str) -> None:
    """Are told apart from those of the CPU."""
    params = yaml.safe_load((built / layout.PARAMS).read_text())
    params["engine"] |= {"kind": engine, "provider": provider}
    (built / layout.PARAMS).write_text(yaml.safe_dump(params))
    assert read(built).kind == kind


def test_models_have_names() -> None:
    """By where they come from."""
    assert model_name({"source": "hub", "id": "a/b", "revision": "c"}) == "a/b at c"
    assert model_name({"source": "gguf", "path": "x.gguf"}) == "x.gguf"
    assert model_name({"source": "random", "architecture": "llama", "seed": 1, "config": {}}) == "random llama, seed 1"


def test_many_steps_are_thinned() -> None:
    """To medians of neighbours; few stay as they are."""
    assert thinned([(1, 2.0)]) == ((1, 2.0),)
    assert thinned([]) == ()
    found = thinned([(i, 9.0 if i % 10 else 100.0) for i in range(4096)])
    assert len(found) <= collect.STEPS
    assert {ms for _, ms in found} == {9.0}
    assert found[0][0] < found[1][0]
