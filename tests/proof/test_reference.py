"""reference: reading a text in chunks is reading it."""

import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core.schema import Model, Source
from pipeline.proof.reference import Reference
from tests.support.architectures import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunks_of_several_rows_equal_one_forward_of_each(architecture: str) -> None:
    """5 + 1 + 14 tokens of three rows, over a sliding window of 6 where there is one: the logits of the whole row."""
    model = Model(source=Source.random, architecture=architecture, config=ARCHITECTURES[architecture])
    reference = Reference(loading.load(model, None))
    tokens = torch.randint(0, 128, (3, 20), generator=torch.Generator().manual_seed(0))
    reading = reference.streaming()
    chunks = torch.cat([reading.logits(chunk) for chunk in tokens.split([5, 1, 14], dim=1)], dim=1)
    whole = [torch.from_numpy(reference.answer([], row.tolist(), list(range(20))).logits) for row in tokens]
    torch.testing.assert_close(chunks, torch.stack(whole), atol=1e-4, rtol=0)
