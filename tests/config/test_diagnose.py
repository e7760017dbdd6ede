"""diagnose: what Hydra refuses, in files and overrides, all at once."""

from pathlib import Path

import pytest

from tests.support.mistakes import add_option, assert_one_problem, problems
from tests.support.repository import make


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the test's own, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


WRONG = [
    (["model=nope"], "model", "no option nope"),
    (["model=tiny_lama"], "model", "did you mean tiny_llama?"),
    (["model=null"], "model", "no option null"),
    (["axes=3"], "axes", "no option 3"),
    (["+experiment=tiny"], "experiment", "leave the + out"),
    (["experiment=nope"], "experiment", "choose one of deploy_matrix, kv_sizes, long_context, precision_ladder, tiny"),
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
    (["engine.kind=tensort"], "engine.kind", "one of onnxruntime, onnxruntime_client, tensorrt, tensorrt_rtx"),
    (["model.config=3"], "model.config", "a mapping"),
    (["wrap=all"], "wrap", "its keys one by one: logits"),
    (["profile.prefill.batch=3"], "profile.prefill.batch", "min, opt, max"),
    (["axes.batch"], "axes.batch", "not an override"),
    (["=3"], "", "not an override"),
    (["model.path=(a)"], "model.path", "quote a value"),
    (["verify.quantized_gates.kl=some"], "verify.quantized_gates.kl", "give a number"),
    (["verify.quality.tokens=null"], "verify.quality.tokens", "cannot be null"),
    (["engine=tensorrt_rtx", "engine.targets=[ada]"], "engine.targets", "a list"),
    (['point="${"'], "point", "point cannot be"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_has_one_clear_message(overrides: list[str], where: str, says: str) -> None:
    """A single mistake gives a single problem that names the key, what was given, and the way out."""
    assert_one_problem(overrides, where, says)


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


def test_mistakes_in_a_users_file_name_file_and_key(repository: Path) -> None:
    """All mistakes of a file come at once, besides those of the overrides and those of what does not fit."""
    conf = add_option(repository, "axes", "batch: many\nsequence: 2048\nrows: 3\n")
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
    found = problems("axes=mine", conf=add_option(repository, "axes", text))
    assert [p.where.removeprefix(f"{repository}/") for p in found] == [where]
    assert says in str(found[0])
