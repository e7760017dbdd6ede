"""Models that need more than transformers' attention functions: every artifact, and their own greedy text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.coverage.configurations import tiny as tiny_configuration
from pipeline import engine
from pipeline.checkpoint import loading
from pipeline.core.schema import Model, section
from pipeline.model.decoder import Decoder, cache_shapes
from pipeline.proof.artifacts import artifacts
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from tests.support.architectures import WIDER, random_model, wider_model
from tests.support.gates import held
from tests.support.points import build_once

REACH = ["falcon", "bloom", "gptj"]
REACH += ["mixtral", "gpt_oss", "deepseek_v3", "llama4_text, experts", "gemma3n_text"]
STATES: dict[str, dict[str, Any]] = {"jamba": {}, "deepseek_v32": {"mlp_layer_types": ["dense"] * 4}}
GATES = held(logits_error=1e-3, kl=1e-6, cache_error=1e-3)
NEW_TOKENS = 64
STEPS = ((7, 3, 10), (1, 1, 1), (4, 0, 2), (1, 1, 1))  # new tokens of each row


@pytest.mark.parametrize("kind", WIDER)
def test_steps_of_ragged_rows(kind: str) -> None:
    """Every token's logits are those of the original on the row's whole text, without a cache or positions given; in a
    cache that held other numbers before, and with an idle row."""
    original, wrapped = wider_model(kind), wider_model(kind)
    past = [torch.full((3, *shape), 100.0) for layer in cache_shapes(wrapped, 48) for shape in layer.values()]
    decoder = Decoder(wrapped, "all").eval()
    texts = torch.randint(3, 128, (3, 32), generator=torch.Generator().manual_seed(0))
    used = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        expected = original(input_ids=texts, use_cache=False).logits
        for counts in STEPS:
            steps = torch.arange(max(counts))
            at = used[:, None] + steps
            mask = (steps < torch.tensor(counts)[:, None]).long()
            logits, past = decoder(texts.gather(1, at) * mask, mask, at, used, past)
            want = expected.gather(1, at[:, :, None].expand_as(logits)) * mask[:, :, None]
            torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
            used = used + torch.tensor(counts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*REACH, *STATES])
def test_every_artifact_equals_the_original(kind: str, tmp_path: Path) -> None:
    """Interface and 13 cases; the engine's text is what the original writes with no cache, in one kernel a layer."""
    if kind in REACH:
        model = random_model(kind)
    else:
        model = {"source": "random", "architecture": kind, "config": tiny_configuration(kind) | STATES[kind], "seed": 0}
    contract = build_once(tmp_path, ["cache.size=96"], engine, model=model)
    original = loading.load(section(Model, tmp_path), tmp_path)
    answers = ReferenceAnswers(Reference(original), contract, seed=0)
    failures = {}
    for artifact in artifacts(tmp_path, contract):
        runtime = artifact.open()
        failures[artifact.name, "contract"] = artifact.findings()
        for case in catalog(runtime.profiles, contract.cache_size):
            failures[artifact.name, case.name] = run_case(case, runtime, answers, GATES).failures
    assert len(failures) == 4 * 14
    assert not {where: failed for where, failed in failures.items() if failed}
    session = runtime.session(2)
    texts = [[3, 14, 15], [9, 2, 6, 5, 35]]
    new = [list(text) for text in texts]
    for _ in range(NEW_TOKENS):
        new = [[int(token)] for token in session.step(new)[:, 0].argmax(-1)]
        for text, tokens in zip(texts, new, strict=True):
            text += tokens
    for text in texts:
        with torch.inference_mode():
            choices = original(input_ids=torch.tensor([text[:-1]]), use_cache=False).logits[0].argmax(-1)
        assert choices[-NEW_TOKENS:].tolist() == text[-NEW_TOKENS:]
