"""Load the original model and its tokenizer from any of the sources, in fp32, as transformers defines them."""

import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.hub import cached_file

from pipeline import gguf_metadata, gguf_model, tokenizer_files
from pipeline.errors import Problem, UserError
from pipeline.spec import Model, Source
from pipeline.tokens import ids_of

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken")
FIXES = {
    Source.hub: "check model.id and model.revision, and the login of the hub",
    Source.local: "check that the folder holds a complete checkpoint of a causal LM",
    Source.gguf: "check that transformers can read this architecture from GGUF files",
    Source.random: "check model.architecture (transformers' model_type of a causal LM) and model.config",
}


def load(model: Model, link: Path) -> PreTrainedModel:
    """The original model in fp32 on the CPU, in eval mode; `link` is the point's `checkpoint`.

    Raises UserError when transformers cannot load it.
    """
    if model.trust_remote_code:
        print(f"warning: model.trust_remote_code: code that came with {_name(model)} is run", file=sys.stderr)
    if model.source is Source.random:
        with torch.random.fork_rng():
            torch.manual_seed(model.seed)
            try:
                config = AutoConfig.for_model(model.architecture, **model.config)
                return _all_random(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
            except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
                raise _unloadable(model, "configuration", error) from error
    try:
        if model.source is Source.gguf:
            return gguf_model.load(link.resolve())
        where, options = _location(model, link)
        return AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, use_safetensors=True, **options).eval()
    except (OSError, ValueError) as error:
        raise _unloadable(model, "model", error) from error


def _all_random(model: PreTrainedModel) -> PreTrainedModel:
    """Make initial ones and zeros (norms, biases) random too: graph passes fold them away, and what is planned or
    tested would not be the graph of a trained model."""
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def load_tokenizer(model: Model, link: Path) -> Tokenizer | None:
    """The model's tokenizer; None for random weights and for a local folder without one: they answer tokens only."""
    if model.source is Source.random:
        return None
    if model.source is Source.local and not any(list(link.resolve().glob(name)) for name in TOKENIZER_FILES):
        print(f"warning: {_name(model)} has no tokenizer: the engine will answer tokens only", file=sys.stderr)
        return None
    try:
        if model.source is Source.gguf:
            tokenizer = tokenizer_files.from_gguf(link.resolve())
            if tokenizer is None:
                print(f"warning: {_name(model)} has no tokenizer: the engine will answer tokens only", file=sys.stderr)
            return tokenizer
        where, options = _location(model, link)
        return tokenizer_files.from_folder(where, options, tokenizer_json(model, link))
    except (OSError, ValueError) as error:
        raise _unloadable(model, "tokenizer", error) from error


def tokenizer_json(model: Model, link: Path) -> Path | None:
    """The checkpoint's tokenizer.json; None where it has none."""
    if model.source is Source.hub:
        options = {"revision": model.revision, "_raise_exceptions_for_missing_entries": False}
        found = cached_file(str(model.id), tokenizer_files.TOKENIZER_JSON, **options)
        return None if found is None else Path(found)
    path = link.resolve() / tokenizer_files.TOKENIZER_JSON
    return path if model.source is Source.local and path.exists() else None


def stop_tokens(model: Model, link: Path, original: PreTrainedModel, tokenizer: Tokenizer | None) -> list[int]:
    """Every token that ends a text: those of the generation config, the model's config, the tokenizer and the GGUF
    file together.

    A default of transformers' configuration class, which no file states, counts only if the tokenizer does not take
    it for ordinary text.
    """
    config = original.config.get_text_config()
    found, stated = set(ids_of(original.generation_config.eos_token_id)), set(ids_of(config.eos_token_id))
    own = _own_metadata(model, link)
    if tokenizer is not None and not any("eos_token_id" in keys for keys in (own, own.get("text_config", {}))):
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        defaults = stated - special
        stated -= defaults
        if original.generation_config._from_model_config:
            found -= defaults
    found |= stated
    if model.source is Source.gguf:
        found |= {own[key] for key in gguf_metadata.END_TOKENS if key in own}
    if tokenizer is not None:
        found |= ids_of(tokenizer.eos_token_id)
    return sorted(found)


def _own_metadata(model: Model, link: Path) -> dict[str, Any]:
    """What the checkpoint's config.json says, or the metadata of a GGUF file without their prefix."""
    if model.source is Source.gguf:
        metadata = gguf_metadata.read(link.resolve()).metadata
        return {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    if model.source is Source.random:
        return {}
    where, options = _location(model, link)
    own: dict[str, Any] = PreTrainedConfig.get_config_dict(where, **options)[0]
    return own


def _location(model: Model, link: Path) -> tuple[str, dict[str, Any]]:
    trust = {"trust_remote_code": model.trust_remote_code}
    if model.source is Source.hub:
        return str(model.id), {"revision": model.revision, **trust}
    return str(link.resolve()), trust


def _name(model: Model) -> str:
    return str(model.id or model.path or model.architecture)


def _unloadable(model: Model, part: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    return UserError(Problem(f"the {part} of {_name(model)} does not load: {said}", "model", FIXES[model.source]))
