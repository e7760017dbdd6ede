"""Load the original model from any of the sources, in fp32, as transformers defines it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from pipeline.checkpoint import early, gguf_model, weights_check
from pipeline.checkpoint import files as checkpoint_files
from pipeline.checkpoint.failures import CONFIGURATION, reported, without_report
from pipeline.checkpoint.origin import config_file, display_name, hub_file, origin_of, pretrained_arguments
from pipeline.checkpoint.weights_check import Wording
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source
from pipeline.packed.folder import PackedFolder
from pipeline.packed.methods import quantization
from pipeline.packed.source import of_repository
from pipeline.text.stop_tokens import GENERATION, end_tokens


def configuration(model: Model, link: Path) -> PreTrainedConfig:
    """Return the configuration of a causal LM that transformers can build; `link` is the point's `checkpoint`.

    Raises UserError when there is none, or when a local folder is not a complete checkpoint.
    """
    where, options = pretrained_arguments(model, link)
    where_config = config_file(model, link)
    if problems := list(_early(model, link, where_config)):
        raise UserError(problems)
    with reported(model, CONFIGURATION, where_config):
        if model.source is Source.random:
            config = AutoConfig.for_model(model.architecture, **model.config)
        elif model.source is Source.gguf:
            config = gguf_model.configuration(link.resolve())
        else:
            config = AutoConfig.from_pretrained(where, **options)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config  # the weights are unpacked here, in fp32
    config._attn_implementation = None  # a choice for training, of a package that may be missing; ours replaces it
    return config


def _early(model: Model, link: Path, where_config: str) -> Iterator[Problem]:
    """Problems that show before transformers reads the configuration; none for a GGUF file."""
    if model.source is Source.random:
        yield from early.refusals(str(model.architecture), model.config, "model.architecture", code=False)
    elif model.source is not Source.gguf:
        if model.source is Source.local:
            checkpoint_files.check(link.resolve(), trusted=model.trust_remote_code)
        where, options = pretrained_arguments(model, link)
        with reported(model, CONFIGURATION, where_config):
            given, _ = PreTrainedConfig.get_config_dict(where, revision=options.get("revision"))
            if model.source is Source.hub and (path := hub_file(model, GENERATION)):
                end_tokens(path)
        code = bool(given.get("auto_map"))
        problems = list(checkpoint_files.config_problems(given, where_config, trusted=model.trust_remote_code))
        yield from problems
        if not problems and not (code and model.trust_remote_code):
            yield from early.refusals(given["model_type"], given, where_config, code=code)


def _class(config: PreTrainedConfig) -> Any:
    """Return the class that builds a model: as a causal LM, or with what it has for images or sound."""
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING
    return AutoModelForCausalLM if text_only else AutoModelForMultimodalLM


def empty_model(model: Model, link: Path, config: PreTrainedConfig) -> PreTrainedModel | None:
    """Return the model without weights, on the meta device; None for a checkpoint with code of its own, which may need
    the CPU.

    Raises UserError when the configuration's sizes do not fit together.
    """
    if model.trust_remote_code:
        return None
    with reported(model, CONFIGURATION, config_file(model, link)), torch.device("meta"):
        return _class(config).from_config(config, dtype=torch.float32).eval()


def load(model: Model, link: Path, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """Return the original model in fp32 on the CPU, in eval mode; `link` is the point's `checkpoint`, `config` the
    result of `configuration`.

    Raises UserError when transformers cannot load it, or not all of its weights.
    """
    if model.trust_remote_code:
        print(f"warning: model.trust_remote_code: code that came with {display_name(model)} is run", file=sys.stderr)
    config = config or configuration(model, link)
    if model.source is Source.random:
        return _random(model, config)
    where, options = pretrained_arguments(model, link)
    same = {"dtype": torch.float32, "output_loading_info": True}
    same["ignore_mismatched_sizes"] = True  # all of them are reported below
    with reported(model, "model", origin_of(model, link)), without_report():
        if model.source is Source.gguf:
            return gguf_model.load(link.resolve(), config)
        if packed := packed_folder(model, link):
            with torch.device("meta"):  # _early refuses those with code of their own
                empty = _class(config).from_config(config, dtype=torch.float32)
            tensors = dict(packed.tensors(transposed=_conv1d(empty)))
            loaded, info = type(empty).from_pretrained(None, config=empty.config, state_dict=tensors, **same)
            with contextlib.suppress(OSError):  # it has none
                loaded.generation_config = GenerationConfig.from_pretrained(packed.folder)
        else:
            options |= {"config": config, "use_safetensors": True}
            loaded, info = _class(config).from_pretrained(where, **same, **options)
    text_only = type(loaded.config) is not type(config)
    if problems := list(weights_check.problems(loaded, info, Wording(origin_of(model, link)), text_only=text_only)):
        raise UserError(problems)
    if text_only and (parts := weights_check.other_parts(loaded, info)):
        print(f"warning: of {display_name(model)} the text model is built, without {', '.join(parts)}", file=sys.stderr)
    return loaded.eval()


def _conv1d(model: PreTrainedModel) -> set[str]:
    """The ends of names of GPT-2's linear layers, whose weights are [K, N]."""
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Conv1D)}


def packed_folder(model: Model, link: Path) -> PackedFolder | None:
    """Return the folder of a quantized checkpoint; None for any other kind."""
    if model.source not in (Source.local, Source.hub):
        return None
    where, options = pretrained_arguments(model, link)
    if not quantization(PreTrainedConfig.get_config_dict(where, revision=options.get("revision"))[0]):
        return None
    return PackedFolder(of_repository(where, model.revision) if model.source is Source.hub else Path(where))


def _random(model: Model, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(), reported(model, CONFIGURATION, config_file(model, Path())):
        torch.manual_seed(model.seed)
        return _all_random(_class(config).from_config(config, dtype=torch.float32)).eval()


def _all_random(model: PreTrainedModel) -> PreTrainedModel:
    """Make initial ones and zeros (norms, biases) random as well, in place: graph passes would fold them away, and the
    graph would not be that of a trained model."""
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
