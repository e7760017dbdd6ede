"""The whole pipeline on a real model, SmolLM2-135M-Instruct, by a real `dvc repro`."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline import quantize
from pipeline.backends.onnxruntime.lower import lower
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Embedding, Model, Quantize, Verify, Weights, section
from pipeline.generate import Generator
from pipeline.graph import onnx_file
from pipeline.proof.interface import onnx_findings
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.text.sampling import Sampling
from pipeline.text.streaming import decode_stream
from tests.support import repository

pytestmark = [pytest.mark.slow, pytest.mark.real]

QUESTION = "What is the capital of France? Explain its history in a paragraph."
NEW = 64


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default point, built, verified and measured in a repository of its own."""
    # an eighth of the text that a user's build reads, and half the greedy tokens: 2 minutes less on one core
    params = repository.PARAMS.replace("[]", "[verify.quality.tokens=1024, verify.greedy_tokens=64]")
    folder = repository.make_whole(tmp_path_factory.mktemp("smollm2") / "repository", params)
    done = repository.run(folder, "dvc", "repro", "verify@smollm2", "bench@smollm2")
    assert done.returncode == 0, done.stdout + done.stderr
    print(*re.findall(r"(?m)^\w+: .* peak memory .*$", done.stdout), sep="\n")  # what each stage cost
    return folder / "artifacts" / "smollm2"


@pytest.fixture(scope="module")
def generator(point: Path) -> Generator:
    """The engine and its tokenizer."""
    return Generator.load(point / layout.ENGINE)


@pytest.fixture(scope="module")
def prompts(point: Path, generator: Generator) -> list[list[int]]:
    """The texts of verify.prompts, as tokens: about 10, 20 and 30."""
    tokens = [generator.tokenizer.encode(text) for text in section(Verify, point).prompts]
    assert [round(len(prompt), -1) for prompt in tokens] == [10, 20, 30]
    return tokens


@pytest.fixture(scope="module")
def original_texts(point: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What the original model's own generate() continues each prompt with, greedily, fp32."""
    model = loading.load(section(Model, point), point / layout.CHECKPOINT)
    options: dict[str, Any] = {"do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW, "pad_token_id": 0}
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options)
        texts.append(out[0, len(prompt) :].tolist())
    return texts


def test_every_artifact_is_proven(point: Path) -> None:
    """verify.json: passed; 13 cases, the contract and greedy text of each of the 4 artifacts; of the engine each prompt
    alone too, and its quality over 1,024 tokens of Python's documentation; token ids where there is a tokenizer."""
    report = json.loads((point / layout.VERIFY).read_text())
    assert report["passed"]
    assert list(report["artifacts"]) == [layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED, layout.ENGINE]
    for artifact, cases in report["artifacts"].items():
        more = {layout.WRAPPED: {"token ids"}, layout.ENGINE: {"token ids", "quality"}}.get(artifact, set())
        numbered = {name for name in cases if name.startswith("greedy")} | {"contract"}
        assert len(cases.keys() - numbered - more) == 13
        assert more < cases.keys()
        assert all(case["passed"] for case in cases.values())
        greedy = [case["greedy_agreement"] for name, case in cases.items() if name.startswith("greedy")]
        assert greedy == [1.0] * (4 if artifact == layout.ENGINE else 1)
    quality = report["artifacts"][layout.ENGINE]["quality"]
    assert quality["predicted_tokens"] == 1024 - 2  # windows of 512, of which the first token is given
    assert 10 < quality["perplexity_original"] < 20
    assert abs(quality["perplexity_increase"]) < 1e-4


def test_greedy_text_is_the_originals(
    generator: Generator, prompts: list[list[int]], original_texts: list[list[int]]
) -> None:
    """64 tokens of 3 prompts, each alone and all in one ragged batch, equal transformers' own generate()."""
    generator.stop = frozenset()
    for batch, want in [([p], [t]) for p, t in zip(prompts, original_texts, strict=True)] + [(prompts, original_texts)]:
        steps = list(generator.tokens(batch, NEW))
        assert [list(row) for row in zip(*steps, strict=True)] == want


def test_graph_is_small_and_standard(point: Path) -> None:
    """No finding; the patterns of 30 layers are single nodes; weights, the tied embedding too, are stored once."""
    contract = GraphContract.load(point / layout.WRAPPED / layout.CONTRACT)
    model = onnx.load(point / layout.SIMPLIFIED / layout.MODEL, load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert onnx_findings(model, contract) == []
    assert [kinds.count(k) for k in ("Attention", "TensorScatter", "RMSNormalization", "RotaryEmbedding")] == [
        30, 60, 61, 60
    ]  # fmt: skip
    assert len(kinds) <= 680  # 22 a layer and a few; a new release of torch or onnxsim may need another number
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 24)]
    onnx.checker.check_model(point / layout.SIMPLIFIED / layout.MODEL, full_check=True)
    assert (point / layout.SIMPLIFIED / layout.DATA).stat().st_size <= 134_515_008 * 4  # its parameters, fp32
    assert (point / layout.ENGINE / layout.DATA).read_bytes() == (point / layout.ONNX / layout.DATA).read_bytes()


def test_the_files_own_blocks_are_carried_over(
    point: Path, tmp_path: Path, prompts: list[list[int]], original_texts: list[list[int]]
) -> None:
    """All 210 weights in Q4_1 and the embedding in Q8_0 keep their numbers, bit for bit, in a fifth of the bytes; an
    engine that rounds no activations gives with them what fp32 gives."""
    model = onnx_file.load(point / layout.SIMPLIFIED)
    options = Quantize(Weights.int4, 32, False, Embedding.int8, True)
    rows = quantize.own_rows_of(point / layout.CHECKPOINT, np.float32)
    entries = quantize.quantize(model, quantize.Quantizer(options, rows))
    assert len(entries) == 121  # one each for qkv, o, gate and up, down of 30 layers, and the tied embedding
    assert {(e.carried_over, e.exact, e.rms) for e in entries} == {(e.rows, e.rows, 0.0) for e in entries}
    onnx_file.save(model, tmp_path)
    assert (tmp_path / layout.DATA).stat().st_size < 134_515_008 * 4 * 0.22
    exact = onnx_file.load(tmp_path)
    lower(exact, int8_activations=False)
    (tmp_path / layout.ENGINE).mkdir()
    onnx_file.save(exact, tmp_path / layout.ENGINE)
    contract = GraphContract.load(point / layout.WRAPPED / layout.CONTRACT)
    models = (point / layout.ENGINE / layout.MODEL, tmp_path / layout.ENGINE / layout.MODEL)
    sessions = [OnnxRuntime(path, contract, Profiles.of_axes(contract)).session(3) for path in models]
    for tokens in [prompts, *([[row[i]] for row in original_texts] for i in range(32))]:
        want, got = (session.step(tokens) for session in sessions)
        np.testing.assert_allclose(got, want, atol=1e-3)  # 1.7e-4 in verify's cases


def test_command_prints_the_answer_alone(point: Path) -> None:
    """`python -m pipeline.generate`: the answer on stdout as it is made, and nothing on stderr."""
    arguments = ("smollm2", QUESTION, "--max-new-tokens", "24")
    done = repository.run(point.parent.parent, "python", "-m", "pipeline.generate", *arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("The capital of France is Paris.")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_chat_ends_at_the_stop_token(generator: Generator, point: Path) -> None:
    """An answer of one word ends by itself; without the template the text is merely continued."""
    fresh = Generator.load(point / layout.ENGINE)
    answer = "".join(fresh.stream("Say hello.", 200))
    assert 0 < len(answer) < 200
    assert "<|im_end|>" not in answer
    continued = "".join(fresh.stream("The capital of France is", 8, chat=False))
    assert "Paris" in continued


def test_sampled_text_varies_with_its_seed_only(generator: Generator) -> None:
    """Temperature 0.8, top-k 50, top-p 0.9: the same seed the same text, another seed another text."""
    texts = ["".join(generator.stream(QUESTION, 24, Sampling(0.8, 50, 0.9, seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_streamed_pieces_are_whole_characters(generator: Generator) -> None:
    """A text with characters of several tokens comes in pieces that join to it, none of them broken."""
    text = "naïve café, 東京, 🙂"
    ids = generator.tokenizer.encode(text)
    pieces = list(decode_stream(generator.tokenizer.decode, iter(ids)))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 5
