"""The original model's tokenizer from any of the sources, and the tokens that end its texts."""

import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.checkpoint import gguf_metadata, tokenizer_files
from pipeline.checkpoint.failures import reported
from pipeline.checkpoint.origin import display_name, hub_file, origin_of, pretrained_arguments
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source
from pipeline.text.stop_tokens import ids_of

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken")
NO_TOKENIZER = "warning: {} has no tokenizer: the engine will answer tokens only"


def load_tokenizer(model: Model, link: Path) -> Tokenizer | None:
    """Return the model's tokenizer; None for random weights and for a checkpoint without one: they answer tokens."""
    if model.source is Source.random:
        return None
    if model.source is Source.local and not any(list(link.resolve().glob(name)) for name in TOKENIZER_FILES):
        print(NO_TOKENIZER.format(display_name(model)), file=sys.stderr)
        return None
    with reported(model, "tokenizer", origin_of(model, link)):
        if model.source is Source.gguf:
            tokenizer = tokenizer_files.from_gguf(link.resolve())
            if tokenizer is None:
                print(NO_TOKENIZER.format(display_name(model)), file=sys.stderr)
            return tokenizer
        where, options = pretrained_arguments(model, link)
        return tokenizer_files.from_folder(where, options, tokenizer_json(model, link))


def tokenizer_json(model: Model, link: Path) -> Path | None:
    """Return the path of the checkpoint's tokenizer.json; None where it has none."""
    if model.source is Source.hub:
        return hub_file(model, tokenizer_files.TOKENIZER_JSON)
    path = link.resolve() / tokenizer_files.TOKENIZER_JSON
    return path if model.source is Source.local and path.exists() else None


def collect_stop_tokens(model: Model, link: Path, original: PreTrainedModel, tokenizer: Tokenizer | None) -> list[int]:
    """Return every token that ends a text: those of the generation config, the model's config, the tokenizer and the
    GGUF file together. Raises UserError for one of a GGUF file that is not a number.

    A default of transformers' configuration class, which no file states, counts only if it is a special token of the
    tokenizer.
    """
    config = original.config.get_text_config()
    found, stated = (
        set(ids_of(original.generation_config.eos_token_id)),
        set(ids_of(getattr(config, "eos_token_id", None))),
    )
    own = _own_metadata(model, link)
    if tokenizer is not None and not any("eos_token_id" in keys for keys in (own, own.get("text_config", {}))):
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        defaults = stated - special
        stated -= defaults
        if original.generation_config._from_model_config:
            found -= defaults
    found |= stated
    if model.source is Source.gguf:
        ends = {key: own[key] for key in gguf_metadata.END_TOKENS if key in own}
        if wrong := [key for key, number in ends.items() if type(number) is not int]:
            raise UserError(
                Problem(f"tokenizer.ggml.{key} is {ends[key]!r}, not a token id", str(link.resolve()), "correct it")
                for key in wrong
            )
        found |= set(ends.values())
    if tokenizer is not None:
        found |= ids_of(tokenizer.eos_token_id)
    return sorted(found)


def _own_metadata(model: Model, link: Path) -> dict[str, Any]:
    """Return the checkpoint's config.json, or a GGUF file's metadata with the prefix removed from its keys."""
    if model.source is Source.gguf:
        metadata = gguf_metadata.read(link.resolve()).metadata
        return {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    if model.source is Source.random:
        return {}
    where, options = pretrained_arguments(model, link)
    own: dict[str, Any] = PreTrainedConfig.get_config_dict(where, **options)[0]
    return own
