"""The work of stage wrap; its artifacts are compared in tests/test_verify.py, its refusals in tests/model."""

from pathlib import Path

import pytest

from pipeline.checkpoint import loading
from pipeline.core.errors import UserError
from pipeline.core.schema import Axes, Cache, ComputeType, Logits, Model, Precision, Source
from pipeline.wrapping.program import wrap


def test_sizes_that_do_not_fit_are_told_before_weights_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the configuration; the folder stays empty."""
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("weights were loaded"))
    model = Model(source=Source.random, architecture="llama", config={"hidden_size": 10, "num_attention_heads": 3})
    with pytest.raises(UserError, match="configuration"):
        wrap(model, Axes(2, 8), Cache(16), Precision(ComputeType.fp32), Logits.last, tmp_path, tmp_path)
    assert not [*tmp_path.iterdir()]
