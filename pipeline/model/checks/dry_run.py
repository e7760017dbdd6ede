"""Run a model's forward on the meta device, to refuse it before its weights are loaded."""

import inspect
import re

import torch
from transformers import PreTrainedModel

from pipeline.core.errors import UserError, first_line
from pipeline.core.tables.refusals import Category
from pipeline.model.decoder import Decoder, cache_shapes
from pipeline.model.refusals import unsupported

BATCH, SEQUENCE, SLOTS = 2, 3, 8


def refusal(model: PreTrainedModel) -> UserError | None:
    """Return the error with which the decoder refuses a model on the meta device; None when it does not, or when only a
    run with numbers can tell. The model is changed."""
    try:
        with torch.device("meta"), torch.no_grad():
            _text_alone(model)
            shapes = cache_shapes(model, SLOTS)
            past = [torch.zeros(BATCH, *shape) for layer in shapes for shape in layer]
            ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.int64)
            Decoder(model, "last").eval()(ids, ids, ids, ids[:, 0], past)
    except UserError as error:
        return error
    except Exception:  # an operation whose result depends on numbers, which the meta device does not have
        return None
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
