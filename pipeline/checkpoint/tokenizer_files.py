"""The tokenizer of a checkpoint, whose ids are those of the checkpoint's own files.

AutoTokenizer may build another tokenizer than the files describe: of tokenizer.json it keeps vocabulary and merges for
some classes and lets the class split the text; of a GGUF file's `tokenizer.ggml.pre` it knows a few names. So the
tokenizer itself is taken from the file, and only special tokens and chat template from transformers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, decoders, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, TokenizersBackend
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.checkpoint import gguf_metadata
from pipeline.checkpoint.gguf_metadata import SENTENCEPIECE, Header
from pipeline.checkpoint.gguf_reader import fast_gguf_loading, fields, in_own_folder
from pipeline.checkpoint.pre_tokenizers import IGNORE_MERGES, pre_tokenizer
from pipeline.core.errors import Problem, UserError, first_line

TOKENIZER_JSON = "tokenizer.json"
# of the class that transformers chose: how it builds or changes its backend
CLASS_OWN = {
    *("tokenizer_class", "tokenizer_file", "vocab_file", "merges_file", "vocab", "merges", "added_tokens_decoder"),
    *("add_bos_token", "add_eos_token", "add_prefix_space", "auto_map", "backend", "tokenizer_object", "from_slow"),
    *("name_or_path", "is_local", "local_files_only", "fix_mistral_regex", "legacy"),
    *("use_default_system_prompt", "sp_model_kwargs", "spaces_between_special_tokens", "trim_offsets"),
}
SPACE = "\u2581"  # a space in the vocabularies of sentencepiece
NO_TOKENIZER = ("none", "no_vocab")  # tokenizer.ggml.model of a file that has none


def plain(tokenizer: Tokenizer, backend: Backend) -> Tokenizer:
    """The tokenizer with another backend, in transformers' class that changes nothing in it."""
    kept: dict[str, Any] = {key: value for key, value in tokenizer.init_kwargs.items() if key not in CLASS_OWN}
    kept |= {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    kept |= {"chat_template": tokenizer.chat_template, "model_max_length": tokenizer.model_max_length}
    kept |= {"clean_up_tokenization_spaces": False}
    return TokenizersBackend(tokenizer_object=backend, **kept)


def read_backend(path: Path) -> Backend:
    """The tokenizer that a tokenizer.json describes. Raises UserError when it cannot be read."""
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        what = f"{path} cannot be read: {first_line(error)}"
        raise UserError(Problem(what, str(path), "download it again, or save it with save_pretrained")) from error
    return _whole(backend)


def _whole(backend: Backend) -> Backend:
    """Return the backend with the truncation and padding that its file may ask for switched off."""
    backend.no_truncation()
    backend.no_padding()
    return backend


def _auto(pretrained_model_name_or_path: str, **options: Any) -> Tokenizer:
    """Return the tokenizer that transformers makes. Raises ValueError or OSError, whatever transformers raises."""
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options)
        return tokenizer
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error


def from_folder(where: str, options: dict[str, Any], file: Path | None) -> Tokenizer:
    """The tokenizer of a folder or a repository of the hub; `file`: its tokenizer.json, None where it has none.

    Raises UserError when tokenizer.json cannot be read, and whatever AutoTokenizer raises.
    """
    backend = None if file is None else read_backend(file)
    tokenizer = _auto(where, **options)
    if backend is not None:
        return plain(tokenizer, backend)
    own = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer if own is None else plain(tokenizer, _whole(own))


def from_gguf(path: Path) -> Tokenizer | None:
    """The tokenizer of a GGUF file; None where the file has none.

    Raises UserError for a damaged file or one whose pre-tokenizer is not known, and what AutoTokenizer raises.
    """
    found = gguf_metadata.problems(path)
    if found:
        raise UserError(found)
    header = gguf_metadata.read(path)
    if header.metadata.get("tokenizer.ggml.model", "none") in NO_TOKENIZER:
        return None
    with fast_gguf_loading(), in_own_folder(path) as where:
        tokenizer = _auto(**where)
        backend = tokenizer.backend_tokenizer
        correct(header, backend)
        if header.metadata["tokenizer.ggml.model"] == SENTENCEPIECE:
            backend.add_tokens(list(_spaces(path, backend)))
    return plain(tokenizer, backend)


def correct(header: Header, backend: Backend) -> None:
    """Apply to a backend what transformers does not read from a GGUF file's metadata."""
    name = header.pre_tokenizer
    metadata = header.metadata
    if name is not None or metadata["tokenizer.ggml.model"] == SENTENCEPIECE:
        backend.post_processor = between(backend, *header.edge_tokens)
    if name is not None:
        backend.pre_tokenizer = pre_tokenizer(name)
        backend.model.ignore_merges = name in IGNORE_MERGES
    elif metadata["tokenizer.ggml.model"] == SENTENCEPIECE and not header.is_gemma:
        # sentencepiece puts a space before a text that begins with one too; transformers' class does not
        spell, prefix = normalizers.Replace(" ", SPACE), metadata.get("tokenizer.ggml.add_space_prefix", True)
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spell]) if prefix else spell
        backend.pre_tokenizer = None
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)


def _spaces(path: Path, backend: Backend) -> Iterator[AddedToken]:
    """Gemma's tokens of 2 to 31 spaces, which sentencepiece finds in a text before it merges anything: a run of 33 is
    31 and 2, by merges it would be 16 and 17. They are found in the text whose spaces are spelled as in the
    vocabulary."""
    found = fields(path)
    kinds = found["tokenizer.ggml.token_type"].contents() if "tokenizer.ggml.token_type" in found else []
    for token, kind in zip(found["tokenizer.ggml.tokens"].contents(), kinds, strict=False):
        spelled = token.replace(" ", SPACE)
        if kind == TokenType.USER_DEFINED and spelled != token and backend.token_to_id(spelled) is not None:
            yield AddedToken(spelled, normalized=True, special=False)


def between(backend: Backend, start: int | None, end: int | None) -> TemplateProcessing:
    """Return a processor that puts one token before every text and one after it; None for no token."""
    tokens = {number: str(backend.id_to_token(number)) for number in (start, end) if number is not None}
    before, behind = ([] if number is None else [f"{tokens[number]}:0"] for number in (start, end))
    single = [*before, "$A:0", *behind]
    pair = [*before, "$A:0", "$B:1", *behind]
    return TemplateProcessing(single=single, pair=pair, special_tokens=[(tokens[n], n) for n in tokens])
