"""run.py, the runner of a package: tokens, texts and refusals as those of pipeline.generate."""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from benchmarks.coverage.configurations import tiny as tiny_configuration
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.generate import Generator
from pipeline.packaging import check, run
from pipeline.text import sampling
from tests.support import packages
from tests.support.architectures import random_model
from tests.support.points import build_once

PROMPTS = [list(range(1, 46)), [11, 12], [13, 14, 15, 16], list(range(60, 93))]  # two need chunks of 32


@pytest.fixture(scope="module")
def model(tiny: tuple[Path, GraphContract]) -> run.Model:
    """The tiny engine."""
    return run.Model(tiny[0] / layout.ENGINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a chat template."""
    made = tmp_path_factory.mktemp("tokenizer")
    packages.add_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def texts(folder: Path) -> tuple[run.Text, Any]:
    """The runner's tokenizer, and that of transformers."""
    return run.Text(folder), AutoTokenizer.from_pretrained(folder)


def rows(steps: Iterator[list[int | None]]) -> list[list[int]]:
    """The new tokens of each row."""
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], PROMPTS[1:3]])
def test_tokens_equal_those_of_generate(
    model: run.Model, tiny: tuple[Path, GraphContract], prompts: list[list[int]]
) -> None:
    """Ragged batches, chunks, and a cache filled to its last slot: 45 + 20 - 1 = 64."""
    expected = Generator.load(tiny[0] / layout.ENGINE)
    assert model.stop == expected.stop
    assert rows(model.generate(prompts, 20)) == rows(expected.tokens(prompts, 20))


@pytest.mark.slow
def test_another_engine(tmp_path: Path) -> None:
    """Logits of all tokens, caches in half precision, and a last chunk of one token that only decode takes."""
    build_once(tmp_path, ["wrap.logits=all", "precision=fp16", "profile.prefill.sequence.min=2"])
    got = run.Model(tmp_path / layout.ENGINE).generate(PROMPTS, 20)
    assert rows(got) == rows(Generator.load(tmp_path / layout.ENGINE).tokens(PROMPTS, 20))


@pytest.mark.slow
def test_caches_of_windows(tmp_path: Path) -> None:
    """A cache that keeps a sliding window drops no token for a row that has ended."""
    build_once(tmp_path, ["engine.window_cache=true"], model=random_model("gemma2"))
    model = run.Model(tmp_path / layout.ENGINE)
    assert model.windows_or_states
    assert rows(model.generate(PROMPTS, 20)) == rows(Generator.load(tmp_path / layout.ENGINE).tokens(PROMPTS, 20))


def test_states(tmp_path: Path) -> None:
    """They take turns in two buffers, and a row that has ended does not change the others'."""
    config = tiny_configuration("qwen3_5_text")
    model = {"source": "random", "architecture": "qwen3_5_text", "config": config, "seed": 0}
    build_once(tmp_path, [], model=model)
    prompts = [[token % 256 for token in prompt] for prompt in PROMPTS]
    got = run.Model(tmp_path / layout.ENGINE).generate(prompts, 20)
    assert rows(got) == rows(Generator.load(tmp_path / layout.ENGINE).tokens(prompts, 20))


def test_a_row_ends_by_itself(model: run.Model) -> None:
    """At a stop token, or at the last slot of its cache; the others go on."""
    free = rows(model.generate(PROMPTS))
    assert [len(new) for new in free] == [64 - len(prompt) + 1 for prompt in PROMPTS]
    stopped, model.stop = model.stop, frozenset({free[1][5]})
    try:
        for before, after in zip(free, rows(model.generate(PROMPTS)), strict=True):
            assert after == before[: before.index(free[1][5]) if free[1][5] in before else None]
    finally:
        model.stop = stopped


@given(st.integers(0, 2**32), st.floats(0.1, 5), st.integers(0, 9), st.floats(0.01, 1))
def test_probabilities_are_those_of_generate(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    """Whatever the settings."""
    logits = np.random.default_rng(seed).normal(size=24).astype(np.float32)
    own, other = run.Sampling(temperature, top_k, top_p), sampling.Sampling(temperature, top_k, top_p)
    assert own.probabilities(logits).tolist() == sampling.probabilities(logits, other).tolist()


def test_a_sampled_row_does_not_depend_on_its_batch(model: run.Model) -> None:
    """Nor on its place; another seed gives another text, and greedy text is not sampled."""
    together = rows(model.generate(PROMPTS, 12, run.Sampling(2.0, seed=5)))
    assert together == [rows(model.generate([p], 12, run.Sampling(2.0, seed=5)))[0] for p in PROMPTS]
    assert together != rows(model.generate(PROMPTS, 12, run.Sampling(2.0, seed=6)))
    assert together != rows(model.generate(PROMPTS, 12))


@settings(max_examples=30)  # the library compiles the template anew in each
@given(st.text())
def test_ids_of_texts_and_chats_are_those_of_transformers(texts: tuple[run.Text, Any], text: str) -> None:
    """Any text, special tokens included, as it is and in the chat template, and decoded again."""
    own, other = texts
    ids = own.encode(text, chat=False)
    assert ids == other(text)["input_ids"]
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": text}
    for messages in ([user], [system, user]):
        want = other.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert own.encode(text, chat=True, system="Be brief." if messages[1:] else None) == want
    assert "".join(own.stream(iter(ids))) == other.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, 399), max_size=40))
def test_streamed_text_is_the_text_of_all_tokens(texts: tuple[run.Text, Any], ids: list[int]) -> None:
    """Also of tokens that are no characters; as transformers decodes them."""
    own, other = texts
    assert "".join(own.stream(iter(ids))) == own.decode(ids) == other.decode(ids, skip_special_tokens=True)


def test_templates_that_fail_are_mistakes(folder: Path, tmp_path: Path) -> None:
    """Refused messages, code that the sandbox forbids, and no template at all."""
    text = run.Text(folder)
    with pytest.raises(run.MistakeError, match=r"no system.*\n.*remove the system message"):
        text.encode("x", chat=True, system="no")
    text.template = "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}"
    with pytest.raises(run.MistakeError, match=r"unsafe|not safely"):
        text.encode("x", chat=True)
    text.template = None
    with pytest.raises(run.MistakeError, match="no chat template"):
        text.encode("x", chat=True)


def test_a_named_template_and_tokens_with_settings(folder: Path, tmp_path: Path) -> None:
    """Several templates in tokenizer_config.json, a special token as an object, and one of the model's own."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "tool_use", "template": "x"},
        {"name": "default", "template": "{{ eos_token }}!"},
    ]
    config |= {"eos_token": {"content": "</s>"}, "extra_special_tokens": {"image_token": "<|user|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    text = run.Text(tmp_path)
    assert text.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<|user|>"}
    assert text.encode("a", chat=True) == text.tokenizer.encode("</s>!", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("prompts", "new", "settings", "message"),
    [
        ([], 1, {}, "there are 0 prompts\n.*give 1 to 4"),
        ([[1]] * 5, 1, {}, "there are 5 prompts"),
        ([[]], 1, {}, "prompt 0 is empty"),
        ([[1], [512]], 1, {}, "prompt 1 .*unknown tokens"),
        ([[1] * 60], 6, {}, "60 tokens, and the cache 64 slots\n.*--max-new-tokens 5"),
        ([[1] * 65], None, {}, "65 tokens"),
        ([[1]], 0, {}, "max_new_tokens is 0"),
        ([[1]], 1, {"temperature": -1.0}, "temperature"),
        ([[1]], 1, {"top_k": -1}, "top_k"),
        ([[1]], 1, {"top_p": 0.0}, "top_p"),
        ([[1]], 1, {"seed": -1}, "seed"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(
    model: run.Model, prompts: list[list[int]], new: int | None, settings: dict[str, float], message: str
) -> None:
    """Already when asked, not at the first token."""
    with pytest.raises(run.MistakeError, match=message):
        model.generate(prompts, new, run.Sampling(**settings))


def test_text_needs_a_tokenizer(model: run.Model) -> None:
    """A model of random weights answers token ids."""
    with pytest.raises(run.MistakeError, match="no tokenizer"):
        model.answer("hello")


def test_an_older_onnxruntime_is_refused(tiny: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the versions' numbers, not their text."""
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.3")
    with pytest.raises(run.MistakeError, match=r"needs onnxruntime 1\.32 or later, this is 1\.9\.3"):
        run.Model(tiny[0] / layout.ENGINE)


def test_shipped_files_import_nothing_of_the_repository() -> None:
    """They run where kvforge is not; check.py without any package."""
    imported = {
        module: {
            name.split(".")[0]
            for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        for module in (run, check)
    }
    assert imported[run] - set(sys.stdlib_module_names) == {"jinja2", "numpy", "onnxruntime", "tokenizers"}
    assert imported[check] <= set(sys.stdlib_module_names)
