"""Run a model's forward on the meta device, to refuse it before its weights are loaded."""

import torch
from transformers import PreTrainedModel

from pipeline.core.errors import UserError
from pipeline.model.decoder import Decoder, cache_shapes

BATCH, SEQUENCE, SLOTS = 2, 3, 8


def refusal(model: PreTrainedModel) -> UserError | None:
    """Return the error with which the decoder refuses a model on the meta device; None when it does not, or when only a
    run with numbers can tell. The model is changed."""
    try:
        with torch.device("meta"), torch.no_grad():
            shapes = cache_shapes(model, SLOTS)
            past = [torch.zeros(BATCH, *shape) for layer in shapes for shape in layer]
            ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.int64)
            Decoder(model, "last").eval()(ids, ids, ids, ids[:, 0], past)
    except UserError as error:
        return error
    except Exception:  # an operation whose result depends on numbers, which the meta device does not have
        return None
    return None
