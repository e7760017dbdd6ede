"""Whether a checkpoint's tensors are those of the model that its configuration describes.

transformers only logs what does not fit: it fills what is missing with random numbers and leaves the rest out, and the
original that every artifact is compared with would be damaged in the same way.
"""

import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from pipeline.checkpoint_files import SHOWN, shorten
from pipeline.errors import Problem

# masks and constants that earlier versions of transformers saved with each layer; not every model class lists them
LEFTOVERS = re.compile(r"\.(attn|attention)\.(masked_bias|bias)$")
TEXT_PART = re.compile(r"\b(language_model|text_model)\.")  # its name in a checkpoint for images or sound
LAYER = re.compile(r"\.(\d+)\.")


def problems(model: PreTrainedModel, info: dict[str, Any], where: str, *, text_only: bool) -> Iterator[Problem]:
    """Tensors that are missing, unexpected, of other shapes, or tied but different.

    `info` is what from_pretrained returns with output_loading_info; `where` names the checkpoint. With `text_only` the
    model is one part of the checkpoint, and the other parts are no problem.
    """
    if missing := sorted(set(info["missing_keys"]) - set(model.all_tied_weights_keys)):  # the tensor tied to is named
        yield Problem(
            f"{_count(missing, 'is', 'are')} missing from the checkpoint: {shorten(missing)}",
            where,
            "download the checkpoint again, or correct config.json, which asks for them" + _tie(model, missing),
        )
    mismatched = sorted(info["mismatched_keys"])
    for name, stored, wanted in mismatched[:SHOWN]:
        sizes = {want for have, want in zip(stored, wanted, strict=False) if have != want}
        config = model.config.to_dict()
        keys = ", ".join(f"{key}={value}" for key, value in config.items() if type(value) is int and value in sizes)
        more = f" (and {len(mismatched) - SHOWN} more tensors of other shapes)" if len(mismatched) > SHOWN else ""
        yield Problem(
            f"{name} has the shape {list(stored)} in the checkpoint and {list(wanted)} by config.json{more}",
            where,
            f"correct config.json{f' ({keys})' if keys else ''}, or download the checkpoint again",
        )
    unexpected = sorted(name for name in info["unexpected_keys"] if not LEFTOVERS.search(name))
    if text_only:
        unexpected = [name for name in unexpected if not _other_part(model, name)]
    if unexpected:
        yield Problem(
            f"{_count(unexpected, 'has', 'have')} no place in the model: {shorten(unexpected)}",
            where,
            _hint(model, unexpected),
        )
    for tied in sorted(
        set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(model.all_tied_weights_keys)
    ):
        yield Problem(
            f"{tied} differs from the embedding, but config.json ties them: tie_word_embeddings is true",
            where,
            f"set tie_word_embeddings to false in config.json, or remove {tied} from the checkpoint",
        )


def other_parts(model: PreTrainedModel, info: dict[str, Any]) -> list[str]:
    """The parts that a text model leaves out of a checkpoint for images or sound, such as vision_model."""
    return sorted({part for name in info["unexpected_keys"] if (part := _other_part(model, name))})


def _other_part(model: PreTrainedModel, name: str) -> str:
    """The module that a tensor belongs to and the model lacks, at its top or one level below; empty if deeper."""
    known = {module for module, _ in model.named_modules()}
    parts = TEXT_PART.sub("", name).split(".")[:-1]
    for depth in range(1, min(len(parts), 2) + 1):
        path = ".".join(parts[:depth])
        if path not in known:
            return path
    return ""


def _count(names: list[str], one: str, several: str) -> str:
    return f"1 tensor {one}" if len(names) == 1 else f"{len(names)} tensors {several}"


def _tie(model: PreTrainedModel, missing: list[str]) -> str:
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    return " (tie_word_embeddings: true if the embedding is the LM head)" if f"{head}.weight" in missing else ""


def _hint(model: PreTrainedModel, names: list[str]) -> str:
    """Which keys of config.json would give these tensors a place."""
    config = model.config.to_dict()
    keys = set()
    if any(name.endswith(".bias") for name in names):
        keys |= {key for key in config if "bias" in key and "dropout" not in key}
    layers = getattr(model.config, "num_hidden_layers", None)
    numbers = [int(found[1]) for name in names if (found := LAYER.search(name))]
    if layers is not None and any(number >= layers for number in numbers):
        keys.add("num_hidden_layers")
    listed = ", ".join(f"{key}={config.get(key)}" for key in sorted(keys))
    return f"correct config.json ({listed})" if listed else "give the config.json that belongs to these weights"
