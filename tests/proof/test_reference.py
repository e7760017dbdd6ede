"""reference: the original's answers are the same in one forward, after a cache, token by token and in chunks."""

import numpy as np
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


@pytest.fixture(scope="module")
def llama() -> Reference:
    """A tiny Llama."""
    return Reference(
        loading.load(Model(source=Source.random, architecture="llama", config=ARCHITECTURES["llama"]), None)
    )


def test_an_answer_after_cached_tokens_is_that_of_the_whole_row(llama: Reference) -> None:
    """Logits at the positions asked for, and the keys and values of the new tokens alone."""
    tokens = list(range(1, 13))
    whole = llama.answer([], tokens, list(range(12)))
    first = llama.answer([], tokens[:7], [6])
    rest = llama.answer(first.caches, tokens[7:], [0, 4])
    np.testing.assert_allclose(rest.logits, whole.logits[[7, 11]], atol=1e-4)
    assert rest.logits.shape == (2, 128)
    assert len(rest.caches) == len(whole.caches) == 2 * llama.model.config.num_hidden_layers
    for before, after, both in zip(first.caches, rest.caches, whole.caches, strict=True):
        assert after.base is None  # not a view that would keep the cached tokens in memory
        np.testing.assert_allclose(np.concatenate([before, after], 1), both, atol=1e-5)


def test_greedy_choices_prove_a_generated_text(llama: Reference) -> None:
    """Along its own text the original chooses that text; along another one, the first difference shows."""
    prompt = [5, 6, 7]
    text = llama.generate(prompt, 10)
    assert llama.greedy([*prompt, *text[:-1]], 10).tolist() == text
    other = [*text[:4], (text[4] + 1) % 128, *text[5:]]
    choices = llama.greedy([*prompt, *other[:-1]], 10).tolist()
    assert next(i for i in range(10) if choices[i] != other[i]) == 4
    assert llama.greedy(prompt, 1).tolist() == text[:1]


def test_only_equal_weights_of_the_same_type_are_shared(llama: Reference) -> None:
    """One that differs in a single number, has another type or is unknown stays as it is."""
    own = dict(llama.model.named_parameters())
    names = list(own)[:4]
    weights = {f"model.{name}": own[name].detach().clone() for name in names}
    weights[f"model.{names[1]}"].view(-1)[0] += 1
    weights[f"model.{names[2]}"] = weights[f"model.{names[2]}"].double()
    weights["model.unknown"] = own[names[0]].detach().clone()
    llama.share_equal_weights(weights)
    shared = [name for name, tensor in weights.items() if any(tensor is parameter for parameter in own.values())]
    assert shared == [f"model.{names[0]}", f"model.{names[3]}"]
