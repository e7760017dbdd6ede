"""Load the original model and its tokenizer from any of the sources, in fp32, as transformers defines them."""

import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline import gguf_model
from pipeline.errors import Problem, UserError
from pipeline.gguf_file import read_once
from pipeline.spec import Model, Source

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
    where, options = _location(model, link)
    try:
        if model.source is Source.gguf:
            return gguf_model.load(link.resolve())
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
    where, options = _location(model, link)
    try:
        with read_once():
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(where, **options)
        return tokenizer
    except (OSError, ValueError) as error:
        raise _unloadable(model, "tokenizer", error) from error


def _location(model: Model, link: Path) -> tuple[str, dict[str, Any]]:
    trust = {"trust_remote_code": model.trust_remote_code}
    if model.source is Source.hub:
        return str(model.id), {"revision": model.revision, **trust}
    path = link.resolve()
    if model.source is Source.gguf:
        return str(path.parent), {"gguf_file": path.name, **trust}
    return str(path), trust


def _name(model: Model) -> str:
    return str(model.id or model.path or model.architecture)


def _unloadable(model: Model, part: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    return UserError(Problem(f"the {part} of {_name(model)} does not load: {said}", "model", FIXES[model.source]))
