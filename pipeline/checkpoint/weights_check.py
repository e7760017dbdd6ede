"""Whether a checkpoint's tensors are those of the model that its configuration describes.

transformers only logs what does not fit: it fills what is missing with random numbers and leaves the rest out, and the
original that every artifact is compared with would be damaged in the same way.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from pipeline.checkpoint.files import SHOWN, shorten
from pipeline.core.errors import Problem

# masks and constants that earlier versions of transformers saved with each layer; not every model class lists them
LEFTOVERS = re.compile(r"\.(attn|attention)\.(masked_bias|bias)$")
TEXT_PART = re.compile(r"\b(language_model|text_model)\.")  # its name in a checkpoint for images or sound
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Wording:
    """How problems name a checkpoint and the description of its model, and their fixes; None for a fix that names the
    keys of config.json."""

    where: str
    name: str = "the checkpoint"
    described_by: str = "config.json"
    if_missing: str | None = None
    if_misfit: str | None = None


def problems(
    model: PreTrainedModel, info: dict[str, Any], wording: Wording, *, text_only: bool = False
) -> Iterator[Problem]:
    """Tensors that are missing, unexpected, of other shapes, or tied but different.

    `info` is what from_pretrained returns with output_loading_info. With `text_only` the model is one part of the
    checkpoint, and the other parts are not a problem.
    """
    where = wording.where
    if missing := sorted(set(info["missing_keys"]) - set(model.all_tied_weights_keys)):  # the tensor tied to is named
        yield Problem(
            f"{_count(missing, 'is', 'are')} missing from {wording.name}: {shorten(missing)}",
            where,
            wording.if_missing
            or "download the checkpoint again, or correct config.json, which asks for them" + _tie(model, missing),
        )
    mismatched = sorted(info["mismatched_keys"])
    for name, stored, wanted in mismatched[:SHOWN]:
        sizes = {want for have, want in zip(stored, wanted, strict=False) if have != want}
        config = model.config.to_dict()
        keys = ", ".join(f"{key}={value}" for key, value in config.items() if type(value) is int and value in sizes)
        more = f" (and {len(mismatched) - SHOWN} more tensors of other shapes)" if len(mismatched) > SHOWN else ""
        yield Problem(
            f"{name} has the shape {list(stored)} in {wording.name} and {list(wanted)} by {wording.described_by}{more}",
            where,
            wording.if_misfit or f"correct config.json{f' ({keys})' if keys else ''}, or download the checkpoint again",
        )
    unexpected = sorted(name for name in info["unexpected_keys"] if not LEFTOVERS.search(name))
    if text_only:
        unexpected = [name for name in unexpected if not _other_part(model, name)]
    if unexpected:
        yield Problem(
            f"{_count(unexpected, f'of {wording.name} has', f'of {wording.name} have')} no place in the model: "
            f"{shorten(unexpected)}",
            where,
            wording.if_misfit or _hint(model, unexpected),
        )
    for tied in sorted(
        set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(model.all_tied_weights_keys)
    ):
        yield Problem(
            f"{tied} of {wording.name} differs from the embedding, but {wording.described_by} ties them: "
            "tie_word_embeddings is true",
            where,
            wording.if_misfit
            or f"set tie_word_embeddings to false in config.json, or remove {tied} from the checkpoint",
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
