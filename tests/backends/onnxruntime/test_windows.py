"""Sliding windows are recognized by what a mask is at every position, not by how it is made."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pipeline.backends.onnxruntime import lower, windows
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, section
from pipeline.graph import onnx_file
from pipeline.graph.editor import Editor
from pipeline.proof.artifacts import Engine
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session
from tests.support.architectures import random_model
from tests.support.gates import held
from tests.support.lowered import assert_no_answer_changed, engine_of
from tests.support.points import build_once

CACHE = 40
GRAPH = """
<ir_version: 10, opset_import: ["" : 24]>
g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch] cache_position)
  => (%s[batch, 1, sequence, 40] mask)
<int64 zero = {0}, int64 one = {1}, int64[1] one_d = {1}, int64[2] axes = {1, 3}, int64[2] padding_axes = {2, 3},
 int64 size = {40}, int64 n = {6}, int64 odd_one = {17},
 float see = {0}, float hide = {-3.4028235e38}, float less = {-5}>
{
  shape = Shape <start = 1, end = 2> (input_ids)
  sequence = Squeeze (shape)
  steps = Range (zero, sequence, one)
  first = Unsqueeze (cache_position, one_d)
  positions = Add (first, steps)
  query = Unsqueeze (positions, axes)
  start = Unsqueeze (first, axes)
  slot = Range (zero, size, one)
  causal = LessOrEqual (slot, query)
  before = Sub (query, n)
  near = Greater (slot, before)
  window = And (causal, near)
  %s
}
"""
MASKS = {
    "a window": ("mask = Identity (window)", 6),
    "only causal": ("mask = Identity (causal)", CACHE),
    "added to scores": ("mask = Where (window, see, hide)", 6),
    "a smaller number added": ("mask = Where (window, see, less)", None),
    "and the first slot": ("sink = Equal (slot, zero) both = Or (window, sink) mask = And (both, causal)", None),
    "not at one position": ("odd = Equal (query, odd_one) mask = Xor (window, odd)", None),
    "chunks": ("a = Div (slot, n) b = Div (query, n) same = Equal (a, b) mask = And (same, causal)", None),
    "later slots too": ("after = Add (query, n) soon = Less (slot, after) mask = And (soon, near)", None),
    "all new tokens": ("new = GreaterOrEqual (slot, start) mask = Or (new, window)", None),
    "with padding": (
        "most = ReduceMax (attention_mask, one_d) any = Unsqueeze (most, padding_axes) real = Cast <to = 9> (any) "
        "mask = And (window, real)",
        None,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_a_window_or_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its positions are computed in many parts."""
    nodes, window = MASKS[name]
    editor = Editor(ir.from_proto(onnx.parser.parse_model(GRAPH % ("float" if "see" in nodes else "bool", nodes))))
    (mask,) = editor.graph.outputs
    assert windows.sliding_window(editor, mask, CACHE) == window
    monkeypatch.setattr(windows, "ELEMENTS", CACHE * 9)
    assert windows.sliding_window(editor, mask, CACHE) == window


@pytest.mark.parametrize("architecture", ["gemma3_text"])
def test_an_engine_has_windows_in_place_of_masks(architecture: str, tmp_path: Path) -> None:
    """Layers without a window have none; nothing that made the masks is left."""
    contract = build_once(tmp_path, [], model=random_model(architecture))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    fused = [n for n in nodes if n.op_type == "GroupQueryAttention"]
    found = [a.i for n in fused for a in n.attribute if a.name == "local_window_size"]
    assert found == [6] * (2 if architecture.startswith("gemma") else 3)
    assert not any(len(n.input) > 10 and n.input[10] for n in fused)
    assert not {"Range", "Greater", "LessOrEqual", "And"} & {n.op_type for n in nodes}
    assert_no_answer_changed(tmp_path, layout.SIMPLIFIED, contract)


def test_a_window_as_long_as_the_cache_is_none(
    window: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the mask is only causal, which the kernel is anyway."""
    model = onnx_file.load(window[0] / layout.SIMPLIFIED)
    monkeypatch.setattr(windows, "sliding_window", lambda *_: window[1].cache_size)
    lower.lower(model, int8_activations=False)
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == 3
    assert not any("local_window_size" in node.attributes or node.inputs[10] for node in nodes)


@pytest.fixture(scope="module")
def answers(window: tuple[Path, GraphContract]) -> ReferenceAnswers:
    """The original's answers."""
    original = loading.load(section(Model, window[0]), window[0])
    return ReferenceAnswers(Reference(original), window[1], seed=0)


def assert_every_case_passes(folder: Path, contract: GraphContract, answers: ReferenceAnswers) -> Runtime:
    """Inspect the engine in `folder` and run all cases; return it."""
    assert Engine(folder.parent, contract, layout.ENGINE).findings() == []
    runtime = open_engine(folder)
    cases = catalog(runtime.profiles, contract.cache_size, contract.limits)
    results = {case.name: run_case(case, runtime, answers, held()) for case in cases}
    assert {name: result.failures for name, result in results.items() if result.failures} == {}
    assert len(results) == 14
    assert results["last slot"].dropped == runtime.contract.dropped(runtime.contract.caches[0], 64) > 50
    return runtime


@pytest.mark.parametrize("spare", [0, 1, 6])
def test_caches_of_windows_only(
    window: tuple[Path, GraphContract],
    answers: ReferenceAnswers,
    spare: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every case, on the tokens that are kept: prompts and chunks longer than the cache, ragged rows, idle ones, a full
    row. The numbers are right with any slots beyond the window."""
    monkeypatch.setattr(windows, "SPARE", spare)
    folder = engine_of(window[0], tmp_path / layout.ENGINE, window_cache=True)
    contract = assert_every_case_passes(folder, window[1], answers).contract
    narrow = 6 + spare
    assert [cache.shape[2] for cache in contract.caches] == [narrow, narrow, 64, 64, narrow, narrow]
    assert contract.windows == dict.fromkeys((cache.name for cache in (*contract.caches[:2], *contract.caches[4:])), 6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma3_text", "granite_swa"])
def test_architectures_with_caches_of_windows_only(architecture: str, tmp_path: Path) -> None:
    """With attention sinks; where all layers have a window, so that no cache has as many slots as a row has tokens."""
    contract = build_once(tmp_path, [], model=random_model(architecture))
    (tmp_path / "narrow").mkdir()
    folder = engine_of(tmp_path, tmp_path / "narrow" / layout.ENGINE, window_cache=True)
    original = loading.load(section(Model, tmp_path), tmp_path)
    runtime = assert_every_case_passes(folder, contract, ReferenceAnswers(Reference(original), contract, seed=0))
    assert len(runtime.contract.windows) == (4 if architecture.startswith("g") else 6)


def test_a_token_of_an_idle_row_would_drop_one_that_counts(
    window: tuple[Path, GraphContract], answers: ReferenceAnswers, tmp_path: Path
) -> None:
    """The cases see it: the reason why idle rows of such an engine get no token at all."""
    runtime = open_engine(engine_of(window[0], tmp_path / layout.ENGINE, window_cache=True))
    (idle,) = (case for case in catalog(runtime.profiles, 64) if case.name == "an idle row")
    make = runtime.session

    def with_token(batch: int) -> Session:
        session = make(batch)
        session._idle_tokens = lambda: np.ones(batch, np.int64)  # type: ignore[method-assign]
        return session

    runtime.session = with_token  # type: ignore[method-assign]
    assert "were changed" in str(run_case(idle, runtime, answers, held()).failures)


def test_far_past_the_window(window: tuple[Path, GraphContract], answers: ReferenceAnswers, tmp_path: Path) -> None:
    """A row is decoded to the last slot beside one that is idle half of the time: greedy tokens are the original's."""
    session = open_engine(engine_of(window[0], tmp_path / layout.ENGINE, window_cache=True)).session(2)
    prompts = [[1, 2, 3], list(range(10, 30))]
    texts = [list(prompt) for prompt in prompts]
    feed: list[list[int]] = [*prompts]
    while session.lengths[0] < 64:
        logits = session.step(feed)
        turns = (True, len(texts[0]) % 2 and session.lengths[1] < 64)
        for row, tokens in enumerate(texts):
            if feed[row]:
                tokens.append(int(logits[row, 0].argmax()))
        feed = [text[used:] if turn else [] for text, used, turn in zip(texts, session.lengths, turns, strict=True)]
    assert session.lengths.tolist() == [64, 51]
    for prompt, text in zip(prompts, texts, strict=True):
        new = text[len(prompt) :]
        assert answers.reference.greedy(text[:-1], len(new)).tolist() == new


def test_idle_rows_of_any_length(window: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Empty, in use or full: they stay as they are, and the next token's logits are those of the ordinary engine."""
    plain = open_engine(engine_of(window[0], tmp_path / "plain"))
    narrow = open_engine(engine_of(window[0], tmp_path / "narrow", window_cache=True))
    given = [[[*range(1, 33)], [], []], [[*range(33, 65)], [5, 6], []], [[], [7], []], [[], [], [8]]]
    given += [[[], [9] if n % 3 else [], [] if n % 3 else [10]] for n in range(20)] + [[[], [10], [11, 12]]]
    sessions = [runtime.session(3) for runtime in (plain, narrow)]
    for session in sessions:
        for cache in session.caches:
            cache[...] = np.nan
    for tokens in given:
        want, got = (session.step(tokens) for session in sessions)
        active = [row for row, new in enumerate(tokens) if new]
        np.testing.assert_allclose(got[active], want[active], atol=1e-5)
    assert sessions[1].lengths.tolist() == [64, 17, 10]


def test_tokens_cannot_be_taken_back(window: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Once a cache has dropped some that they need; before that they can, and all of them always."""
    engine = open_engine(engine_of(window[0], tmp_path / layout.ENGINE, window_cache=True))
    session = engine.session(2)
    session.step([[1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]])
    want = engine.session(2).step([[1, 2], [5]])
    session.lengths[:] = [2, 6]
    with pytest.raises(UserError, match="row 1 was set from 7 to 6 tokens, and its caches keep a sliding window only"):
        session.step([[3], [11]])
    session.lengths[:] = [5, 7]  # nor are there any that were never given
    with pytest.raises(UserError, match="row 0 was set from 4 to 5 tokens"):
        session.step([[4], [11]])
    session.reset()
    np.testing.assert_array_equal(session.step([[1, 2], [5]]), want)
    session.lengths[:] = [1, 1]
    np.testing.assert_allclose(session.step([[2], []])[0], want[0], atol=1e-5)


def test_caches_with_other_readers_keep_all(window: tuple[Path, GraphContract]) -> None:
    """An attention of another layer may need tokens that are out of the first one's window."""
    model = onnx_file.load(window[0] / layout.SIMPLIFIED)
    editor = Editor(model)
    first, _, last = editor.nodes("Attention")
    last.replace_input_with(1, first.inputs[1])
    assert lower.lower(model, int8_activations=False, window_cache=True) == {}


def test_a_model_without_windows_has_no_use_for_it(
    tiny: tuple[Path, GraphContract], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage says so; the engine is the ordinary one."""
    folder = engine_of(tiny[0], tmp_path / layout.ENGINE, window_cache=True)
    assert "engine.window_cache has no effect" in capsys.readouterr().out
    assert (folder / layout.MODEL).read_bytes() == (tiny[0] / layout.ENGINE / layout.MODEL).read_bytes()
