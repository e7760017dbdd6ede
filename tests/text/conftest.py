"""A tokenizer that several test files of this folder share."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from tests.support import gguf_files

# a chat template that writes the role of each turn
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"


@pytest.fixture(scope="session")
def bytewise() -> PreTrainedTokenizerBase:
    """A byte-level BPE with a few merges; tokens 0 to 2 are special, 2 ends a text."""
    vocabulary = {token: number for number, token in enumerate(gguf_files.TOKENS)}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in gguf_files.MERGES)]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(gguf_files.SPECIAL)
    return TokenizersBackend(tokenizer_object=backend, eos_token=gguf_files.SPECIAL[2], chat_template=TURNS)
