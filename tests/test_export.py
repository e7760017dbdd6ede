"""The portable graph itself: standard operators, the contract's interface, and equal to PyTorch."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract, contract_for
from pipeline.core.errors import Refusal, UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Model, section
from pipeline.core.tables.refusals import Category
from pipeline.export import translate
from pipeline.graph.naming import ROOT
from pipeline.graph.pack import ATTENTION, FEED_FORWARD
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.interface import onnx_findings
from pipeline.proof.reference import Reference
from pipeline.runtime.open import open_engine
from pipeline.runtime.torch import Torch
from tests.support.architectures import mostly_slow, random_model
from tests.support.gates import held
from tests.support.points import build_once

GATES = held(logits_error=1e-4, kl=1e-8, cache_error=1e-4)
GRAPHS = [layout.ONNX, layout.SIMPLIFIED]


@pytest.mark.parametrize("artifact", GRAPHS)
def test_graph_keeps_the_contract(tiny: tuple[Path, GraphContract], artifact: str) -> None:
    """No finding of ours, none of onnx's full check, opset 24, no domain but the standard one."""
    folder, contract = tiny
    path = folder / artifact / layout.MODEL
    model = onnx.load(path)
    onnx.checker.check_model(path, full_check=True)
    assert onnx_findings(model, contract) == []
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 24)]
    assert sorted(p.name for p in path.parent.iterdir() if p.suffix != ".json") == [layout.MODEL, layout.DATA]


@pytest.mark.parametrize("artifact", GRAPHS)
def test_reference_evaluator_agrees_with_pytorch(tiny: tuple[Path, GraphContract], artifact: str) -> None:
    """onnx's own evaluator, on a ragged prefill and a chunk after it, gives the wrapped program's logits and cache."""
    folder, contract = tiny
    evaluator = ReferenceEvaluator(onnx.load(folder / artifact / layout.MODEL))
    runtime = Torch.load(folder / layout.WRAPPED / layout.PROGRAM, contract, Profiles.of_axes(contract))
    session = runtime.session(2)
    caches = {t.name: np.zeros(t.sized(batch=2), t.dtype) for t in contract.caches}
    used = np.zeros(2, np.int64)
    for tokens in ([[1, 2, 3, 4], [5, 6]], [[7, 8], [9, 10]]):
        want = session.step(tokens)
        ids, mask = np.zeros((2, len(tokens[0])), np.int64), np.zeros((2, len(tokens[0])), np.int64)
        for row, new in enumerate(tokens):
            ids[row, : len(new)], mask[row, : len(new)] = new, 1
        positions = used[:, None] + np.arange(ids.shape[1])
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "cache_position": used, **caches}
        names = [t.name for t in contract.outputs]
        results = dict(zip(names, evaluator.run(names, feeds), strict=True))
        np.testing.assert_allclose(results["logits"], want, atol=1e-4)
        caches = {past: results[new] for new, past in contract.aliases.items()}
        for got, cache in zip(caches.values(), session.caches, strict=True):
            np.testing.assert_allclose(got, cache, atol=1e-5)
        used = used + mask.sum(1)


def test_nodes_know_their_module_and_no_path(tiny: tuple[Path, GraphContract]) -> None:
    """Metadata names the module that a node came from; no trace of the machine that exported it is left."""
    path = tiny[0] / layout.ONNX / layout.MODEL
    modules = {p.value for n in onnx.load(path).graph.node for p in n.metadata_props if p.key == "module"}
    assert "model.layers.1.self_attn" in modules
    assert str(Path.home()).encode() not in path.read_bytes()
    assert b".py" not in path.read_bytes()


def misnamed(graph: Path, modules: set[str]) -> list[str]:
    """Names of nodes that occur twice, or are not a module of the original (or a packed projection) and an operator."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    names = [node.name for node in nodes]
    found = [name for name in set(names) if names.count(name) > 1]
    for node in nodes:
        module, _, operator = node.name.rpartition(".")
        packed = re.sub(rf"\.({ATTENTION}|{FEED_FORWARD})$", "", module)
        if not {module, packed} & {ROOT, *modules} or not re.fullmatch(rf"{node.op_type}(_\d+)?", operator):
            found.append(node.name)
    return found


# those whose graphs differ in more than sizes; make coverage builds every type
FORMS = ("llama", "gemma2", "phi3", "gpt2", "qwen2", "gemma3_text", "minicpm3", "glm", "longcat_flash", "opt")


@pytest.mark.parametrize("architecture", mostly_slow(FORMS, "llama", "gemma2", "phi3", "gpt2"))
def test_architectures_are_right_in_onnx(architecture: str, tmp_path: Path) -> None:
    """Sliding windows, soft-capping, partial rotary, learned positions, biases: every case of verify, on the engine
    that is made of the simplified graph; and the graph keeps the contract, its nodes named after modules."""
    contract = build_once(tmp_path, [], model=random_model(architecture))
    assert onnx_findings(onnx.load(tmp_path / layout.SIMPLIFIED / layout.MODEL), contract) == []
    assert json.loads((tmp_path / layout.SIMPLIFIED / layout.CHANGES).read_text())["simplified"]
    runtime = open_engine(tmp_path / layout.ENGINE)
    original = loading.load(section(Model, tmp_path), tmp_path)
    for artifact in GRAPHS:
        assert misnamed(tmp_path / artifact / layout.MODEL, {name for name, _ in original.named_modules()}) == []
    answers = ReferenceAnswers(Reference(original), contract, seed=0)
    cases = catalog(runtime.profiles, contract.cache_size)
    failures = {c.name: failed for c in cases if (failed := run_case(c, runtime, answers, GATES).failures)}
    assert not failures
    assert len(cases) == 13


def test_the_exporters_log_is_silent_only_meanwhile(tiny: tuple[Path, GraphContract]) -> None:
    """An application that exports keeps the level of its logger; the tiny model was exported in this process."""
    assert (tiny[0] / layout.ONNX).exists()
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


class Angles(torch.nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_translation() -> None:
    """A refusal that names it and its module, not a traceback."""
    program = torch.export.export(torch.nn.Sequential(torch.nn.Identity(), Angles()), (torch.ones(2),))
    contract = contract_for([{"key": (1, 4, 2), "value": (1, 4, 2)}], 8, "fp32", "last", {"batch": 1, "sequence": 1})
    with pytest.raises(UserError) as raised:
        translate(program, contract, 24)
    (problem,) = raised.value.problems
    assert isinstance(problem, Refusal)
    assert problem.category == Category.TRACING
    assert "bessel_j0" in problem.what
    assert problem.where == "module 1"
