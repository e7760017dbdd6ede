"""Load the original model and its tokenizer from any of the sources, in fp32, as transformers defines them."""

import errno
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file

from pipeline.checkpoint import files as checkpoint_files
from pipeline.checkpoint import gguf_metadata, gguf_model, tokenizer_files, weights_check
from pipeline.checkpoint.weights_check import Wording
from pipeline.core.errors import Problem, UserError, one_line
from pipeline.core.schema import Model, Source
from pipeline.text.stop_tokens import GENERATION, end_tokens, ids_of

CONFIGURATION = "configuration"
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken")
FIXES = {
    Source.hub: "check model.id and model.revision, and the login of the hub",
    Source.local: "check that the folder holds a complete checkpoint of a causal LM",
    Source.gguf: "check that transformers can read this architecture from GGUF files",
    Source.random: "check model.architecture (transformers' model_type of a causal LM) and model.config",
}


def configuration(model: Model, link: Path) -> PreTrainedConfig:
    """The model's configuration, of a causal LM that transformers can build; `link` is the point's `checkpoint`.

    Raises UserError when there is none, or a local folder is not a complete checkpoint.
    """
    where, options = _location(model, link)
    origin = _config_file(model, link)
    if problems := list(_early(model, link, origin)):
        raise UserError(problems)
    with _reported(model, CONFIGURATION, origin):
        if model.source is Source.random:
            config = AutoConfig.for_model(model.architecture, **model.config)
        elif model.source is Source.gguf:
            config = gguf_model.configuration(link.resolve())
        else:
            config = AutoConfig.from_pretrained(where, **options)
    config._attn_implementation = None  # a choice for training, of a package that may be missing; ours replaces it
    return config


def _early(model: Model, link: Path, origin: str) -> Iterator[Problem]:
    """What can be told before transformers reads the configuration; of a GGUF file nothing."""
    if model.source is Source.random:
        yield from _unknown(str(model.architecture), "model.architecture", code=False)
    elif model.source is not Source.gguf:
        if model.source is Source.local:
            checkpoint_files.check(link.resolve(), trusted=model.trust_remote_code)
        where, options = _location(model, link)
        with _reported(model, CONFIGURATION, origin):
            given, _ = PreTrainedConfig.get_config_dict(where, revision=options.get("revision"))
            if model.source is Source.hub and (path := _hub_file(model, GENERATION)):
                end_tokens(path)
        code = bool(given.get("auto_map"))
        problems = list(checkpoint_files.config_problems(given, origin, trusted=model.trust_remote_code))
        yield from problems
        if not problems and not (code and model.trust_remote_code):
            yield from _unknown(given["model_type"], origin, code=code)


def _unknown(kind: str, where: str, *, code: bool) -> Iterator[Problem]:
    """Architectures that transformers does not have, or not as a causal LM; `code`: the checkpoint has its own."""
    if kind not in CONFIG_MAPPING:
        what = f"transformers {transformers.__version__} does not know the architecture {kind!r}"
        fix = "check the spelling, or install a newer transformers that has it"
        if code:
            fix += "; model.trust_remote_code=true would run the code that came with the checkpoint"
        yield Problem(what, where, fix)
    elif CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        yield Problem(f"{kind!r} is not a causal LM in transformers", where, "choose a decoder-only model")


def outline(model: Model, link: Path, config: PreTrainedConfig) -> PreTrainedModel | None:
    """The model without weights, on the meta device; None for code of the checkpoint's own, which may need the CPU.

    Raises UserError when the configuration's sizes do not fit together.
    """
    if model.trust_remote_code:
        return None
    with _reported(model, CONFIGURATION, _config_file(model, link)), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def load(model: Model, link: Path, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The original model in fp32 on the CPU, in eval mode; `link` is the point's `checkpoint`, `config` what
    `configuration` gave.

    Raises UserError when transformers cannot load it, or not all of its weights.
    """
    if model.trust_remote_code:
        print(f"warning: model.trust_remote_code: code that came with {_name(model)} is run", file=sys.stderr)
    config = config or configuration(model, link)
    if model.source is Source.random:
        return _random(model, config)
    where, options = _location(model, link)
    with _reported(model, "model", _origin(model, link)), _without_report():
        if model.source is Source.gguf:
            return gguf_model.load(link.resolve(), config)
        loaded, info = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # all of them are reported below
            use_safetensors=True,
            **options,
        )
    text_only = type(loaded.config) is not type(config)
    if problems := list(weights_check.problems(loaded, info, Wording(_origin(model, link)), text_only=text_only)):
        raise UserError(problems)
    if text_only and (parts := weights_check.other_parts(loaded, info)):
        print(f"warning: of {_name(model)} the text model is built, without {', '.join(parts)}", file=sys.stderr)
    return loaded.eval()


def _random(model: Model, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(), _reported(model, CONFIGURATION, _config_file(model, Path())):
        torch.manual_seed(model.seed)
        return _all_random(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()


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
    with _reported(model, "tokenizer", _origin(model, link)):
        if model.source is Source.gguf:
            tokenizer = tokenizer_files.from_gguf(link.resolve())
            if tokenizer is None:
                print(f"warning: {_name(model)} has no tokenizer: the engine will answer tokens only", file=sys.stderr)
            return tokenizer
        where, options = _location(model, link)
        return tokenizer_files.from_folder(where, options, tokenizer_json(model, link))


def tokenizer_json(model: Model, link: Path) -> Path | None:
    """The checkpoint's tokenizer.json; None where it has none."""
    if model.source is Source.hub:
        return _hub_file(model, tokenizer_files.TOKENIZER_JSON)
    path = link.resolve() / tokenizer_files.TOKENIZER_JSON
    return path if model.source is Source.local and path.exists() else None


def _hub_file(model: Model, name: str) -> Path | None:
    """A file of a repository of the hub; None where it has none of that name."""
    found = cached_file(str(model.id), name, revision=model.revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def stop_tokens(model: Model, link: Path, original: PreTrainedModel, tokenizer: Tokenizer | None) -> list[int]:
    """Every token that ends a text: those of the generation config, the model's config, the tokenizer and the GGUF
    file together. Raises UserError for one of a GGUF file that is not a number.

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
    if model.source is Source.random:
        return "", {}
    return str(link.resolve()), trust


def _origin(model: Model, link: Path) -> str:
    """Where a problem of the checkpoint is: its folder, file or repository."""
    if model.source is Source.hub:
        return f"{model.id}@{model.revision}"
    return str(link.resolve())


def _config_file(model: Model, link: Path) -> str:
    """Where a problem of the configuration is."""
    if model.source is Source.random:
        return "model.config"
    origin = _origin(model, link)
    return str(Path(origin, checkpoint_files.CONFIG)) if model.source is Source.local else origin


def _name(model: Model) -> str:
    return str(model.id or model.path or model.architecture)


@contextmanager
def _reported(model: Model, part: str, where: str) -> Iterator[None]:
    """Turn what transformers raises for a checkpoint that it cannot read into a UserError."""
    name, fix = _name(model), FIXES[model.source]
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        fix = "install them in this environment, in versions that go with its transformers"
        raise UserError(Problem(f"{name} needs packages that are missing: {one_line(error)}", where, fix)) from error
    except StrictDataclassError as error:
        # its text: "Validation error for field 'x': TypeError: Field 'x' expected int, got ..."
        said = one_line(error).partition("Error: ")[2] or one_line(error)
        raise UserError(Problem(f"the configuration of {name} is not valid: {said}", where, "correct it")) from error
    except SafetensorError as error:
        fix = "download it again"
        raise UserError(Problem(f"a file of {name} is cut short or corrupt: {one_line(error)}", where, fix)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # pipeline.core.errors says what to do about a full disk
        said = one_line(error)
        if not isinstance(error, (OSError, ValueError)):
            if model.trust_remote_code:
                last = traceback.extract_tb(error.__traceback__)[-1]
                what = f"the code that came with {name} fails: {type(error).__name__}: {said}"
                fix = "correct it, or install the version of transformers that it was written for"
                raise UserError(Problem(what, f"{last.filename}, line {last.lineno}", fix)) from error
            if part != CONFIGURATION:
                raise
            # a KeyError's text is the key alone, a value that none of transformers' tables holds
            known = isinstance(error, KeyError)
            said = f"transformers does not know {said}" if known else f"{type(error).__name__}: {said}"
        if isinstance(error, OSError) and model.source is Source.hub and (adapter := _hub_adapter(model)):
            raise UserError(adapter) from error
        if part == CONFIGURATION:
            fix = f"correct it, or {fix}"
        raise UserError(Problem(f"the {part} of {name} does not load: {said}", where, fix)) from error


def _hub_adapter(model: Model) -> Problem | None:
    """The problem of a repository that holds an adapter and therefore lacks a model's files."""
    try:
        path = hf_hub_download(str(model.id), checkpoint_files.ADAPTER, revision=model.revision)
    except (OSError, ValueError):  # it has none, or cannot be reached
        return None
    return checkpoint_files.adapter_problem(str(model.id), Path(path))


@contextmanager
def _without_report() -> Iterator[None]:
    """Drop transformers' table of missing and unexpected tensors, which says that they can be ignored: weights_check
    reports them as problems."""
    logger = logging.getLogger("transformers.modeling_utils")

    def kept(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "LOAD REPORT" not in text or "CONVERSION" in text  # the latter belongs to an error that refers to it

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
