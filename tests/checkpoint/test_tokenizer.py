"""tokenizer: from which files it comes, and the tokens that end its texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, TokenizersBackend

from pipeline.checkpoint import gguf_model, loading
from pipeline.checkpoint.tokenizer import collect_stop_tokens, load_tokenizer, tokenizer_json
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from tests.support import gguf_files


def local(folder: Path, tokenizer: PreTrainedTokenizerBase | None, **config: Any) -> Model:
    """A local checkpoint of a tiny Llama, without a generation config."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": len(gguf_files.TOKENS)}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    stored = json.loads((folder / "config.json").read_text())
    stored.pop("eos_token_id", None)
    (folder / "config.json").write_text(json.dumps(stored | config))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return Model(Source.local, path=str(folder))


def ends(model: Model, folder: Path) -> list[int]:
    """The tokens that the wrap stage writes."""
    write_link(model, folder)
    link = folder / layout.CHECKPOINT
    return collect_stop_tokens(model, link, loading.load(model, link), load_tokenizer(model, link))


@pytest.fixture
def ending_in_five() -> PreTrainedTokenizerBase:
    """A byte-level BPE; tokens 0 to 2 are special, and 5 ends a text."""
    vocabulary = {token: number for number, token in enumerate(gguf_files.TOKENS)}
    backend = Tokenizer(models.BPE(vocabulary, [(left, right) for left, right in map(str.split, gguf_files.MERGES)]))
    backend.add_special_tokens(gguf_files.SPECIAL)
    return TokenizersBackend(tokenizer_object=backend, eos_token=gguf_files.TOKENS[5])


def test_end_tokens_of_all_files_together(tmp_path: Path, ending_in_five: PreTrainedTokenizerBase) -> None:
    """Tokenizer, config and generation config; one or several each."""
    model = local(tmp_path / "a", ending_in_five, eos_token_id=[7, 8])
    assert ends(model, tmp_path) == [5, 7, 8]
    (tmp_path / "a/generation_config.json").write_text('{"eos_token_id": 9}')
    assert ends(model, tmp_path) == [5, 7, 8, 9]


def test_a_default_that_no_file_states(tmp_path: Path, ending_in_five: PreTrainedTokenizerBase) -> None:
    """LlamaConfig's 2 counts where the tokenizer takes it for special, or there is none; where it is ordinary text, it
    must not end one."""
    assert ends(local(tmp_path / "a", ending_in_five), tmp_path) == [2, 5]
    assert ends(local(tmp_path / "b", None), tmp_path) == [2]
    plain = Tokenizer(models.BPE({"<s>": 0, "a": 1, "b": 2}, []))
    start = "<s>"
    plain.add_special_tokens([start])
    other = TokenizersBackend(tokenizer_object=plain, eos_token=start)
    assert ends(local(tmp_path / "c", other), tmp_path) == [0]


def test_end_tokens_of_a_gguf_file(tmp_path: Path) -> None:
    """Of text, turn and message."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 0})
    model = Model(Source.gguf, path=str(path))
    tokenizer = load_tokenizer(model, path)
    assert collect_stop_tokens(model, path, gguf_model.load(path), tokenizer) == [0, 1, 2]


def test_a_gguf_file_that_names_no_end(tmp_path: Path) -> None:
    """LlamaConfig's 2 counts where it is a control token, and is ordinary text otherwise."""
    ends_of = {}
    for kind in (3, 1):
        kinds = [3, 3, kind, *[1] * (len(gguf_files.TOKENS) - 3)]
        changes = {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": kinds}
        path = gguf_files.write(tmp_path / f"{kind}.gguf", changes)
        model = Model(Source.gguf, path=str(path))
        tokenizer = load_tokenizer(model, path)
        ends_of[kind] = collect_stop_tokens(model, path, gguf_model.load(path), tokenizer)
    assert ends_of == {3: [2], 1: []}


def test_the_file_that_describes_the_tokenizer(tmp_path: Path, ending_in_five: PreTrainedTokenizerBase) -> None:
    """tokenizer.json of a folder that has one; none of a GGUF file, of random weights, or beside them."""
    model = local(tmp_path / "a", ending_in_five)
    write_link(model, tmp_path)
    link = tmp_path / layout.CHECKPOINT
    assert tokenizer_json(model, link) == tmp_path / "a/tokenizer.json"
    assert tokenizer_json(Model(Source.gguf, path=str(tmp_path / "a/a.gguf")), tmp_path / "a/a.gguf") is None
    assert tokenizer_json(Model(Source.random, architecture="llama"), tmp_path / "a") is None
    assert load_tokenizer(Model(Source.random, architecture="llama"), tmp_path / "a") is None
    loaded = load_tokenizer(model, link)
    assert loaded is not None
    assert loaded("the in")["input_ids"] == ending_in_five("the in")["input_ids"]


def test_a_folder_without_a_tokenizer_gives_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can still be built; a warning tells the consequence."""
    model = local(tmp_path / "a", None)
    write_link(model, tmp_path)
    assert tokenizer_json(model, tmp_path / layout.CHECKPOINT) is None
    assert load_tokenizer(model, tmp_path / layout.CHECKPOINT) is None
    assert capsys.readouterr().err.endswith("a has no tokenizer: the engine will answer tokens only\n")


@pytest.mark.parametrize("value", ["</s>", True, 2.5])
def test_an_end_token_of_a_gguf_file_that_is_not_a_number(tmp_path: Path, value: Any) -> None:
    """The key is named."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.eot_token_id": value})
    model = Model(Source.gguf, path=str(path))
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.eot_token_id is .*, not a token id"):
        collect_stop_tokens(model, path, gguf_model.load(path), load_tokenizer(model, path))
