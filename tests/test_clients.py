"""docs/clients.md: its examples run, and answer what our own session answers.

They need packages of other languages: onnxruntime-genai (the extra `clients`); onnxruntime-node, onnxruntime-web,
@huggingface/tokenizers and playwright-core in node_modules/ or in the folder that NODE_MODULES names; and Chromium.
"""

import json
import os
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

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/clients.md"
MODULES = Path(os.environ.get("NODE_MODULES", ROOT / "node_modules")).resolve()
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
