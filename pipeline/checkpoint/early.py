"""Refuse a type of model by its name and configuration alone, before torch and transformers are imported.

pipeline.model.refusals and what runs the model find the rest, once its class is imported.
"""

import ast
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.checkpoint import transformers_source as source
from pipeline.checkpoint.files import CONFIG
from pipeline.core.errors import Refusal, UserError
from pipeline.core.files import read_json
from pipeline.core.schema import Model, Source
from pipeline.core.tables.refusals import FIXES, Category, needed_inputs, other_state, unsupported

OTHER_TASKS = {  # types of models that transformers lists for something else than a causal LM
    Category.ENCODER_DECODER: ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"),
    Category.ENCODER: ("MASKED_LM",),
}


def check(model: Model, link: Path) -> None:
    """Raise UserError for a model that its type refuses; `link`: its folder, or a link to it. Files that are not
    complete, and those of the hub and of GGUF, are not looked at here."""
    if model.source is Source.random and model.architecture:
        problems = list(refusals(model.architecture, model.config, "model.architecture", code=False))
    elif model.source is Source.local and (link / CONFIG).exists():
        config = read_json(link / CONFIG)
        kind, code = config.get("model_type"), bool(config.get("auto_map"))
        if not isinstance(kind, str) or (code and model.trust_remote_code):
            return
        problems = list(refusals(kind, config, str(link.resolve() / CONFIG), code=code))
    else:
        return
    if problems:
        raise UserError(problems)


def refusals(kind: str, config: Mapping[str, Any], where: str, *, code: bool) -> Iterator[Refusal]:
    """Yield what refuses a type of model with this configuration. where: a file or key; code: the checkpoint has code
    of its own, which is not run."""
    tables = source.tables()
    causal = {**tables.get(source.CAUSAL, {}), **tables.get(source.MULTIMODAL, {})}
    classes = tables.get(source.CONFIGURATIONS, {})
    if not classes or not causal:  # another release of transformers
        return
    if kind not in classes:
        what = f"transformers {version('transformers')} does not know the architecture {kind!r}"
        fix = FIXES[Category.UNKNOWN]
        if code:
            fix += "; model.trust_remote_code=true would run the code that came with the checkpoint"
        yield Refusal(what, where, fix, Category.UNKNOWN)
    elif classes[kind] not in {classes.get(one) for one in causal}:
        names = {task: [f"MODEL_FOR_{name}_MAPPING_NAMES" for name in given] for task, given in OTHER_TASKS.items()}
        tasks = (task for task, given in names.items() if any(kind in tables.get(name, {}) for name in given))
        category = next(tasks, Category.OTHER_TASK)
        yield Refusal(f"{kind!r} is not a causal LM in transformers", where, FIXES[category], category)
    elif (found := source.class_of(kind)) and (reason := _reason(found, config)):
        yield unsupported(found.name, reason[1], reason[0])


def _reason(model: ast.ClassDef, config: Mapping[str, Any]) -> tuple[Category, str] | None:
    """Return a reason that the source of a model's class gives, in the order of pipeline.model.refusals."""
    forward = source.method(model, "forward")
    if forward is None:
        return None
    parameters = source.parameters(forward)
    if why := needed_inputs(parameters):
        return Category.INPUTS, why
    if why := other_state(parameters):
        return Category.RECURRENT, why
    if _warns_of_encoders(model) and not config.get("is_decoder", False):
        return Category.ENCODER, "its attention looks both ways, as an encoder's does"
    return None


def _warns_of_encoders(model: ast.ClassDef) -> bool:
    """Whether a class warns that it is no decoder unless is_decoder is set: BERT's and those made after it."""
    made = source.method(model, "__init__")
    nodes = ast.walk(made) if made else ()
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "not config.is_decoder" for node in nodes)
