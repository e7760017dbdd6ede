"""rules: values out of range, and values that do not fit together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.config import rules
from pipeline.core.schema import Config
from tests.support.mistakes import CONF, add_option, assert_one_problem, problems
from tests.support.repository import make


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the test's own, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


WRONG = [
    (["axes.batch=0"], "axes.batch", "1 or more"),
    (["cache.size=-1"], "cache.size", "cache.size is -1"),
    (["profile.prefill.batch.min=0"], "profile.prefill.batch.min", "1 or more"),
    (["engine.threads=-1"], "engine.threads", "0 to 1024"),
    (["simplify.memory_gb=0"], "simplify.memory_gb", "above 0"),
    (["simplify.timeout_s=inf"], "simplify.timeout_s", "above 0"),
    (["verify.gates.kl=-1"], "verify.gates.kl", "0 or more"),
    (["verify.gates.kl=nan"], "verify.gates.kl", "0 or more"),
    (["verify.gates.greedy_agreement=1.1"], "verify.gates.greedy_agreement", "0 to 1"),
    (["verify.greedy_tokens=0"], "verify.greedy_tokens", "1 or more"),
    (["verify.quantized_gates.kl=-1"], "verify.quantized_gates.kl", "0 or more"),
    (["verify.quantized_gates.greedy_agreement=2"], "verify.quantized_gates.greedy_agreement", "0 to 1"),
    (["quantize.calibration.tokens=0"], "quantize.calibration.tokens", "1 or more"),
    (["verify.quality.tokens=-1"], "verify.quality.tokens", "0 or more"),
    (["verify.quality.window=1"], "verify.quality.window", "2 or more"),
    (["verify.quality.perplexity=nan"], "verify.quality.perplexity", "0 or more"),
    (["verify.quality.kl=-1"], "verify.quality.kl", "0 or more"),
    (["verify.quality.top1=99"], "verify.quality.top1", "0 to 1"),
    (["verify.quality.added_repetition=-0.1"], "verify.quality.added_repetition", "0 to 1"),
    (["verify.seed=-1"], "verify.seed", "0 to"),
    (["bench.repeats=0"], "bench.repeats", "1 or more"),
    (["export.opset=23"], "export.opset", "choose 24 or 25"),
    (["engine.targets=[8.9]"], "engine.targets", "has no effect with engine.kind=onnxruntime"),
    (["engine=tensorrt", "engine.targets=[8.9]"], "engine.targets", "tensorrt accepts workspace_gb"),
    (["engine=tensorrt_rtx", "engine.threads=2"], "engine.threads", "has no effect with engine.kind=tensorrt_rtx"),
    (
        ["model=gemma3_270m", "model.architecture=llama"],
        "model.architecture",
        "hub accepts id, revision, trust_remote_code",
    ),
    (["engine=onnxruntime_client", "engine.provider=CUDAExecutionProvider"], "engine.provider", "is built for CPU"),
    (["engine=onnxruntime_client", "engine.lower=true"], "engine.lower", "no effect with engine.kind=onnxruntime_cl"),
    (["engine=tensorrt_rtx", "engine.workspace_gb=0"], "engine.workspace_gb", "above 0"),
    (["point=a.b"], "point", "letters, digits, _ and -"),
    (["cache.size=500", "verify.quality.tokens=0"], "axes.sequence", "axes.sequence=500 at most"),
    (["verify.greedy_tokens=1025"], "verify.greedy_tokens", "cache.size=1024"),
    (["verify.quality.tokens=1"], "verify.quality.tokens", "0 to measure no quality"),
    (["verify.quality.window=1025"], "verify.quality.window", "verify.quality.window=1024 at most"),
    (["verify.quality.text=nope.txt"], "verify.quality.text", "there is no file nope.txt"),
    (["verify.quality.text=conf"], "verify.quality.text", "there is no file conf"),
    (["quantize.calibration.text=nope.txt"], "quantize.calibration.text", "there is no file nope.txt"),
    (["verify.prompts=[]"], "verify.prompts", "at least one text"),
    (["verify.prompts=['']"], "verify.prompts", "missing or empty"),
    (["bench.new_tokens=1000"], "bench.new_tokens", "1044 tokens"),
    (["model=qwen3_0_6b", "model.id=null"], "model.id", "model.source=hub needs model.id"),
    (["model=qwen3_0_6b", "model.path=x"], "model.path", "has no effect with model.source=hub"),
    (["model=tiny_llama", "model.architecture=null"], "model.architecture", "random needs model.architecture"),
    (["model=tiny_llama", "model.trust_remote_code=true"], "model.trust_remote_code", "has no effect"),
    (["model=qwen3_0_6b", "model.revision=main", "model.trust_remote_code=true"], "model.revision", "40 hexadecimal"),
    (["model=qwen3_0_6b", "model.revision=abc12", "model.trust_remote_code=true"], "model.revision", "40 hexadecimal"),
    (["model.path=null"], "model.path", "gguf needs model.path"),
    (["model.seed=1"], "model.seed", "has no effect with model.source=gguf"),
    (["model.path=nope.gguf"], "model.path", "there is no"),
    (["model.path=__init__.py"], "model.path", "not a GGUF file"),
    (["model.package=not_installed"], "model.package", "provides the module not_installed"),
    (["model.package=os.nope"], "model.package", "not installed"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_has_one_clear_message(overrides: list[str], where: str, says: str) -> None:
    """A single mistake gives a single problem that names the key, what was given, and the way out."""
    assert_one_problem(overrides, where, says)


def test_a_users_model_that_does_not_fit_its_source(repository: Path) -> None:
    """A user's own model file is held to the keys of its source."""
    conf = add_option(repository, "model", "source: hub\npath: x\n")
    assert [p.where for p in problems("model=mine", conf=conf)] == ["model.id", "model.path"]


def test_local_pickles_are_refused_with_the_way_to_convert(repository: Path) -> None:
    """A local folder with pickled weights is refused before anything is loaded, with the command that fixes it."""
    folder = repository / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "pytorch_model.bin").write_bytes(b"")
    conf = add_option(repository, "model", f"source: local\npath: {folder}\n")
    (problem,) = problems("model=mine", conf=conf)
    assert problem.where == "model.path"
    assert "pytorch_model.bin" in problem.what
    assert "save_pretrained" in problem.fix


def test_no_quality_needs_no_window() -> None:
    """verify.quality.tokens=0 switches it off, and then the window may be larger than the cache."""
    assert config.compose(["verify.quality={tokens: 0, window: 4096}"], CONF).verify.quality.tokens == 0


@given(st.text(max_size=8).filter(lambda name: "${" not in name))
def test_point_names(name: str) -> None:
    """A point's name is made of ASCII letters, digits, _ and -, at least one of them. (What OmegaConf takes for an
    interpolation does not come as far as this rule.)"""
    composed = OmegaConf.structured(Config)
    composed.point = name
    refused = any(p.where == "point" for p in rules.check(composed, set()))
    legal = name != "" and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    assert refused != legal
