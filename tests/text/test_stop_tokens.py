"""stop_tokens: the tokens that end a text, out of all files of a checkpoint and of an artifact's folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, TokenizersBackend

from pipeline.checkpoint import gguf_model, loading
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.text.stop_tokens import end_tokens, ids_of, stop_tokens
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
    """What the wrap stage writes."""
    write_link(model, folder)
    link = folder / layout.CHECKPOINT
    return loading.stop_tokens(model, link, loading.load(model, link), loading.load_tokenizer(model, link))


@pytest.fixture
def ending_in_five(bytewise: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose end token is 5."""
    return TokenizersBackend(tokenizer_object=bytewise.backend_tokenizer, eos_token=gguf_files.TOKENS[5])


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
    tokenizer = loading.load_tokenizer(model, path)
    assert loading.stop_tokens(model, path, gguf_model.load(path), tokenizer) == [0, 1, 2]


def test_a_gguf_file_that_names_no_end(tmp_path: Path) -> None:
    """LlamaConfig's 2 counts where it is a control token, and is ordinary text otherwise."""
    ends_of = {}
    for kind in (3, 1):
        kinds = [3, 3, kind, *[1] * (len(gguf_files.TOKENS) - 3)]
        changes = {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": kinds}
        path = gguf_files.write(tmp_path / f"{kind}.gguf", changes)
        model = Model(Source.gguf, path=str(path))
        tokenizer = loading.load_tokenizer(model, path)
        ends_of[kind] = loading.stop_tokens(model, path, gguf_model.load(path), tokenizer)
    assert ends_of == {3: [2], 1: []}


def test_an_artifact_s_folder_has_all_of_them(tmp_path: Path) -> None:
    """One, several, none, no file."""
    for stored, wanted in ((5, {5}), ([5, 2], {2, 5}), (None, set())):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stored}))
        assert stop_tokens(tmp_path) == wanted
    assert stop_tokens(tmp_path / "nowhere") == frozenset()
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json is not valid JSON"):
        stop_tokens(tmp_path)


@pytest.mark.parametrize("value", ["</s>", True, 2.5])
def test_an_end_token_of_a_gguf_file_that_is_not_a_number(tmp_path: Path, value: Any) -> None:
    """The key is named."""
    path = gguf_files.write(tmp_path / "a.gguf", {"tokenizer.ggml.eot_token_id": value})
    model = Model(Source.gguf, path=str(path))
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.eot_token_id is .*, not a token id"):
        loading.stop_tokens(model, path, gguf_model.load(path), loading.load_tokenizer(model, path))


@pytest.mark.parametrize("stated", ["</s>", True, 2.5, [1, "2"], {"id": 2}])
def test_end_tokens_are_token_ids(tmp_path: Path, stated: Any) -> None:
    """transformers takes any type; the file and the key are named."""
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": stated}))
    with pytest.raises(UserError, match="it must be a token id, a list of token ids, or null") as error:
        end_tokens(path)
    assert error.value.problems[0].where == f"{path}: eos_token_id"


@pytest.mark.parametrize(("value", "ids"), [(None, set()), (3, {3}), ([3, 4], {3, 4}), ((5,), {5})])
def test_ids_given_in_any_form(value: Any, ids: set[int]) -> None:
    """As configurations hold them."""
    assert ids_of(value) == ids
