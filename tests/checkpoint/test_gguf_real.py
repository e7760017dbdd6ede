"""Real GGUF files: SmolLM2's, which the requirements bring, and Gemma 3 270M's, which `make gemma3` puts together."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pipeline.checkpoint import gguf_model, tokenizer_files
from pipeline.core.schema import Model, Source
from pipeline.proof import token_ids
from tests.support.gguf_files import smollm2
from tests.support.points import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.real]

GEMMA = ROOT / "models/gemma-3-270m-q4_k_m.gguf"
FILES = [
    smollm2(),
    pytest.param(GEMMA, marks=pytest.mark.skipif(not GEMMA.exists(), reason=f"needs {GEMMA.name}: make gemma3")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).stem)
def test_every_byte_is_what_transformers_gives(path: Path) -> None:
    """All tensors, and the tokenizer's vocabulary, with and without the quick reader: 40 s for SmolLM2."""
    options = {"gguf_file": path.name, "dtype": torch.float32}
    own = AutoModelForCausalLM.from_pretrained(path.parent, **options, quantization_config=GgufConfig(dequantize=True))
    model = gguf_model.load(path)
    assert model.config.to_dict() == own.config.to_dict()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in own.state_dict().items())
    quick, plain = tokenizer_files.from_gguf(path), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert quick is not None
    assert quick.get_vocab() == plain.get_vocab()
    assert quick.special_tokens_map == plain.special_tokens_map


@pytest.mark.skipif(not GEMMA.exists(), reason=f"needs {GEMMA.name}: make gemma3")
def test_gemma_answers() -> None:
    """Ids are sentencepiece's, a run of 33 spaces too, and the text goes on in English."""
    tokenizer, model = tokenizer_files.from_gguf(GEMMA), gguf_model.load(GEMMA)
    assert tokenizer is not None
    spaces = "x" + 33 * " " + "y"
    assert token_ids.findings(tokenizer, Model(Source.gguf, path=str(GEMMA)), GEMMA, spaces) == []
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    assert "capital of the country" in tokenizer.decode(said[0])
