"""RecurrentGemma's blocks: their states are the text's, not the last text's."""

import torch

from benchmarks.coverage.configurations import tiny
from pipeline.checkpoint import loading
from pipeline.core.schema import Model, Source
from pipeline.model.arguments import with_cache
from pipeline.model.states import griffin
from pipeline.model.states.original import empty_cache


def test_a_block_forgets_its_text() -> None:
    """One token alone is the first of a text, not the next of the text before."""
    model = loading.load(
        Model(source=Source.random, architecture="recurrent_gemma", config=tiny("recurrent_gemma"), seed=0), None
    )
    assert [index for index, _ in griffin.blocks(model)] == [0, 2]

    def logits(tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(
                input_ids=torch.tensor([tokens]), **with_cache(model, empty_cache(model))
            ).logits
        return found

    first = logits([5])
    logits([1, 2, 3, 4])
    assert torch.equal(logits([5]), first)


def test_other_models_have_no_such_blocks() -> None:
    """Nothing is changed."""
    model = loading.load(Model(source=Source.random, architecture="lfm2", config=tiny("lfm2"), seed=0), None)
    assert list(griffin.blocks(model)) == []
