"""Cast a model to 16 bits as transformers' `from_pretrained(dtype=...)` loads it.

Some tensors stay fp32: rotary frequencies, tensors that the model's code makes in fp32, and what the model lists in
`_keep_in_fp32_modules` (for fp16) or `_keep_in_fp32_modules_strict` (for fp16 and bf16).
"""

import copy
import re
from contextlib import ExitStack

import torch
from transformers import PreTrainedModel

from pipeline.model.positions import FREQUENCIES


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Cast, in place, a model that was loaded in fp32; return it."""
    if dtype == torch.float32:
        return model
    declared = _declared_types(model, dtype)
    kept = [re.compile(pattern.replace("*", ".*")) for pattern in model._get_dtype_plan(dtype)]
    persistent = set(model.state_dict())

    def target(name: str) -> torch.dtype:
        listed = name in persistent and any(pattern.search(name) for pattern in kept)
        wide = listed or name.endswith(FREQUENCIES) or declared.get(name) == torch.float32
        return torch.float32 if wide else dtype  # Apertus declares bf16, which beside fp16 would be computed in fp32

    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(target(name))  # in place: tied weights stay tied
    for name, buffer in list(model.named_buffers()):
        if buffer.is_floating_point():
            module, _, leaf = name.rpartition(".")
            model.get_submodule(module)._buffers[leaf] = buffer.to(target(name))
    model.config.dtype = dtype
    return model


def _declared_types(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the type of each parameter and buffer in a model constructed without data, as `from_pretrained` does."""
    with ExitStack() as stack:
        for context in type(model).get_init_context(dtype, False, False, None):
            stack.enter_context(context)
        config = copy.deepcopy(model.config)
        for part in [config, *(getattr(config, name, None) for name in config.sub_configs)]:
            if part is not None:  # a part is made in the type that its own configuration names
                part.dtype = dtype
        twin = type(model)(config)
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    return {name: tensor.dtype for name, tensor in tensors.items()}
