"""A decoder beside the original, in PyTorch and without tracing."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

from torch.export import ExportedProgram
from transformers import PreTrainedModel

from pipeline.core.contract import contract_for
from pipeline.core.profiles import Profiles
from pipeline.model.decoder import Decoder, cache_shapes
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.runtime.torch import Torch
from tests.support.gates import held

GATES = held(logits_error=1e-4, kl=1e-8, cache_error=1e-4)
AXES = {"batch": 4, "sequence": 32}
CACHE = 64


def failures(model: PreTrainedModel, original: PreTrainedModel) -> Mapping[str, list[str]]:
    """Run all 13 cases of verify on a model behind the decoder; return what fails, by case."""
    layers = cache_shapes(model, CACHE)
    vocab = model.get_input_embeddings().weight.shape[0]
    contract = contract_for(layers, vocab, "fp32", "last", AXES, cache_size=CACHE)
    program = SimpleNamespace(module=lambda: Decoder(model, "last", layers))
    runtime = Torch(cast(ExportedProgram, program), contract, Profiles.of_axes(contract))
    answers = ReferenceAnswers(Reference(original), contract, seed=0)
    cases = catalog(runtime.profiles, CACHE)
    assert len(cases) == 13
    return {case.name: failed for case in cases if (failed := run_case(case, runtime, answers, GATES).failures)}
