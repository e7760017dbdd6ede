"""docs/clients.md: its examples run, and answer what our own session answers.

They need packages of other languages: onnxruntime-genai (the extra `clients`); onnxruntime-node, onnxruntime-web,
@huggingface/tokenizers and playwright-core, which `make test` puts into tests/node/; and Chromium.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.runtime import genai
from pipeline.runtime.open import open_engine
from tests.support.points import build_once

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/clients.md"
MODULES = ROOT / "tests/node/node_modules"
PROMPT, COUNT = "ab c", 12
LETTERS = "".join(map(chr, range(33, 127))) + "Ġ"  # Ġ stands for a space


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where Node or one of its packages is missing, by name."""
    missing = [name for name in packages if not (MODULES / name).exists()] + ([] if shutil.which("node") else ["node"])
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def speaking_engine(client: tuple[Path, GraphContract], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine for clients with a tokenizer whose every token is text: characters, and words that only it writes."""
    folder = Path(shutil.copytree(client[0] / layout.ENGINE, tmp_path_factory.mktemp("speaking") / "engine"))
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
    vocabulary |= {f"Ġ<{number}>": number for number in range(len(vocabulary), 512)}
    words = Tokenizer(BPE(vocabulary, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    return folder


@pytest.fixture(scope="module")
def answer(speaking_engine: Path) -> str:
    """What our own session answers, greedily."""
    words = Tokenizer.from_file(str(speaking_engine / "tokenizer.json"))
    session, tokens = open_engine(speaking_engine).session(1), []
    new = words.encode(PROMPT).ids
    assert len(new) == len(PROMPT)
    for _ in range(COUNT):
        new = [int(session.step([new])[0, -1].argmax())]
        tokens += new
    assert 2 not in tokens, "it would end there"
    return words.decode(tokens)


def example(kind: str) -> str:
    """The page's example in a language."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found


def run(command: list[str | Path], folder: Path) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(genai.why_unavailable() is not None, reason=str(genai.why_unavailable()))
def test_python(speaking_engine: Path, answer: str, tmp_path: Path) -> None:
    """onnxruntime-genai, with its own tokenizer."""
    script = tmp_path / "generate.py"
    script.write_text(example("python"))
    assert run([sys.executable, script, speaking_engine, PROMPT, str(COUNT)], tmp_path) == answer


@pytest.mark.skipif(genai.why_unavailable() is not None, reason=str(genai.why_unavailable()))
def test_answers_of_a_given_form(speaking_engine: Path) -> None:
    """onnxruntime-genai's constrained decoding."""
    import onnxruntime_genai as og

    model = og.Model(str(speaking_engine))
    tokenizer = og.Tokenizer(model)
    prompt = tokenizer.encode(PROMPT)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + COUNT)
    params.set_guidance("regex", "[xyz]{4}!")
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    assert re.fullmatch("[xyz]{4}!", tokenizer.decode(generator.get_sequence(0)[len(prompt) :]))


@pytest.mark.skipif(genai.why_unavailable() is not None, reason=str(genai.why_unavailable()))
def test_guessed_tokens(tmp_path: Path) -> None:
    """onnxruntime-genai's guesses from the text, of an engine that gives the logits of every token."""
    import onnxruntime_genai as og

    build_once(tmp_path, ["engine=onnxruntime_client", "wrap.logits=all"])
    config = og.Config(str(tmp_path / layout.ENGINE))
    config.overlay(json.dumps({"model": {"eos_token_id": 511}}))  # a random model may choose the usual one
    model = og.Model(config)
    texts = []
    for options in ({}, {"ngram_size": 2, "max_draft_tokens": 4}):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=40)
        params.set_speculative_options(**options)
        generator = og.Generator(model, params)
        generator.append_tokens([7, 8, 9] * 4)
        while not generator.is_done():
            generator.generate_next_token()
        texts.append(generator.get_sequence(0).tolist())
    assert len(texts[0]) == 40
    assert texts[0] == texts[1]


@needs("onnxruntime-node", "@huggingface/tokenizers")
def test_node(speaking_engine: Path, answer: str, tmp_path: Path) -> None:
    """onnxruntime-node, one buffer for past and present."""
    (tmp_path / "generate.mjs").write_text(example("javascript"))
    (tmp_path / "node_modules").symlink_to(MODULES)
    assert run(["node", "generate.mjs", speaking_engine, PROMPT, str(COUNT)], tmp_path) == answer + "\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="not installed: chromium")
@needs("onnxruntime-web", "@huggingface/tokenizers", "playwright-core")
def test_page(speaking_engine: Path, answer: str, tmp_path: Path) -> None:
    """onnxruntime-web in headless Chromium."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "page.html").write_text(example("html"))
    for name in ("onnxruntime-web", "@huggingface"):
        (served / name).symlink_to(MODULES / name)
    (served / "engine").symlink_to(speaking_engine)
    (tmp_path / "node_modules").symlink_to(MODULES)
    shutil.copy(ROOT / "tests/support/page.mjs", tmp_path)
    query = urlencode({"folder": "engine", "count": COUNT, "prompt": PROMPT})
    assert json.loads(run(["node", "page.mjs", served, f"page.html?{query}"], tmp_path))["answer"] == answer
