"""Turn the errors and log messages of transformers about a checkpoint into problems for the user."""

import errno
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from pipeline.checkpoint import files
from pipeline.checkpoint.origin import display_name
from pipeline.core.errors import Problem, Refusal, UserError, one_line
from pipeline.core.schema import Model, Source
from pipeline.core.tables import refusals
from pipeline.core.tables.refusals import Category

CONFIGURATION = "configuration"
FIXES = {
    Source.hub: "check model.id and model.revision, and the login of the hub",
    Source.local: "check that the folder holds a complete checkpoint of a causal LM",
    Source.gguf: "check that transformers can read this architecture from GGUF files",
    Source.random: "check model.architecture (transformers' model_type of a causal LM) and model.config",
}


@contextmanager
def reported(model: Model, part: str, where: str) -> Iterator[None]:
    """Raise UserError for any error of transformers within, but those of a full disk and of our own code.

    part: what is loaded, in words; where: the place for the problem.
    """
    name, fix = display_name(model), FIXES[model.source]
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        what = f"{name} needs packages that are missing: {one_line(error)}"
        raise UserError(Refusal(what, where, refusals.FIXES[Category.PACKAGES], Category.PACKAGES)) from error
    except StrictDataclassError as error:
        # its text: "Validation error for field 'x': TypeError: Field 'x' expected int, got ..."
        reason = one_line(error).partition("Error: ")[2] or one_line(error)
        what = f"the configuration of {name} is not valid: {reason}"
        raise UserError(Refusal(what, where, "correct it", Category.CONFIGURATION)) from error
    except SafetensorError as error:
        fix = "download it again"
        raise UserError(Problem(f"a file of {name} is cut short or corrupt: {one_line(error)}", where, fix)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # pipeline.core.errors says what to do about a full disk
        reason = one_line(error)
        if not isinstance(error, (OSError, ValueError)):
            if model.trust_remote_code:
                last = traceback.extract_tb(error.__traceback__)[-1]
                what = f"the code that came with {name} fails: {type(error).__name__}: {reason}"
                fix = "correct it, or install the version of transformers that it was written for"
                raise UserError(Problem(what, f"{last.filename}, line {last.lineno}", fix)) from error
            if part != CONFIGURATION:
                raise
            # a KeyError's text is the key alone, a value that none of transformers' tables holds
            known = isinstance(error, KeyError)
            reason = f"transformers does not know {reason}" if known else f"{type(error).__name__}: {reason}"
        if isinstance(error, OSError) and model.source is Source.hub and (adapter := _hub_adapter(model)):
            raise UserError(adapter) from error
        what = f"the {part} of {name} does not load: {reason}"
        if part == CONFIGURATION:
            raise UserError(Refusal(what, where, f"correct it, or {fix}", Category.CONFIGURATION)) from error
        raise UserError(Problem(what, where, fix)) from error


def _hub_adapter(model: Model) -> Problem | None:
    """Return the problem of a repository that holds an adapter and therefore lacks a model's files."""
    try:
        path = hf_hub_download(str(model.id), files.ADAPTER, revision=model.revision)
    except (OSError, ValueError):  # it has none, or cannot be reached
        return None
    return files.adapter_problem(str(model.id), Path(path))


@contextmanager
def without_report() -> Iterator[None]:
    """Drop transformers' table of missing and unexpected tensors from its log: it calls them harmless, and
    weights_check reports them as problems."""
    logger = logging.getLogger("transformers.modeling_utils")

    def kept(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "LOAD REPORT" not in text or "CONVERSION" in text  # the latter belongs to an error that refers to it

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
