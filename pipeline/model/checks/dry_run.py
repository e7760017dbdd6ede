"""Run a model's forward on the meta device, to refuse it before its weights are loaded."""

import contextlib
import inspect
import re

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.core.errors import UserError, first_line
from pipeline.core.tables.refusals import Category
from pipeline.model.adapters.text_part import keep_text_part
from pipeline.model.decoder import Decoder, cache_shapes
from pipeline.model.refusals import unsupported

BATCH, SEQUENCE, SLOTS = 2, 3, 8
LARGEST = 2**31  # weights of a model that is tried with numbers: seconds of arithmetic, and 8 GB of addresses


def refusal(model: PreTrainedModel) -> UserError | None:
    """Return the error with which the decoder refuses a model on the meta device; None when it does not. The model is
    changed.

    A forward that asks for numbers, as XLM's does for the largest length, runs on the CPU with weights that nobody
    sets: their memory is allocated, but not written. None also when that fails, or the model is large.
    """
    try:
        return _refusal(model, "meta")
    except Exception:  # an operation whose result depends on numbers, which the meta device does not have
        if model.num_parameters() > LARGEST:
            return None
        with contextlib.suppress(Exception):
            return _refusal(_unset(model), "cpu")
    return None


def _unset(model: PreTrainedModel) -> PreTrainedModel:
    """Return the same model on the CPU, its weights as they are found in memory."""
    with no_init_weights():
        unset = type(model)._from_config(model.config, dtype=torch.float32).eval()
    keep_text_part(unset)
    return unset


def _refusal(model: PreTrainedModel, device: str) -> UserError | None:
    try:
        with torch.device(device), torch.no_grad():
            _text_alone(model)
            layers = cache_shapes(model, SLOTS)
            past = [torch.zeros(BATCH, *shape) for layer in layers for shape in layer.values()]
            ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.int64)
            Decoder(model, "last", layers).eval()(ids, ids, ids, ids[:, 0], past)
    except UserError as error:
        return error
    return None


def _text_alone(model: PreTrainedModel) -> None:
    """Raise UserError for a model whose forward asks for an argument besides the tokens."""
    try:
        model(input_ids=torch.zeros(1, SEQUENCE, dtype=torch.int64))
    except (TypeError, ValueError) as error:
        asked = {*re.findall(r"\w+", str(error))} & {*inspect.signature(model.forward).parameters}
        if asked - {"input_ids", "inputs_embeds"}:
            why = f"its forward does not run on text alone: {first_line(error)}"
            raise unsupported(type(model).__name__, why, Category.INPUTS) from error
