"""transformers.exporters: a graph for prompts and one for decoding, run by transformers' own generate."""

import copy
import itertools
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

from benchmarks.rivals.models import PAD, SLOTS, STEPS, padded_left
from benchmarks.rivals.tools import Rows, Tool

Built = tuple[PreTrainedModel, ExportedModel, GenerationConfig]
SAMPLE = [[9, 10, 11, 12, 13, 14], [15, 16, 17, 18]]  # that it traces with; all axes are dynamic
STATIC = {"cache_implementation": "static", "max_cache_len": SLOTS}


def _build(options: dict[str, Any], model: PreTrainedModel, _: Path, __: Path) -> Built:
    model.generation_config = GenerationConfig()  # generate would take tokens that it forces or suppresses from it
    ids, mask = padded_left(SAMPLE)
    settings = GenerationConfig(do_sample=False, pad_token_id=PAD, **options)
    sample = {"input_ids": ids, "attention_mask": mask}
    exported = OnnxExporter().export_for_generation(model, sample, OnnxConfig(dynamic=True), generation_config=settings)
    return model, exported, settings


def _answer(built: Built, rows: Rows, _: int) -> Rows:
    """Let generate call the graphs in place of the model's forward; of a model of several parts, in place of these
    while it reads the prompt."""
    original, exported, settings = built
    model = copy.copy(original)
    model._modules = dict(original._modules)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    exported.to(session_options=options)
    parts = {"language_model": original.get_decoder(), "lm_head": original.get_output_embeddings()}
    replaced = [(parts[name], exported.runners[name]) for name in parts if name in exported.runners]
    steps = itertools.count()
    ids, mask = padded_left(rows)
    forward = original.forward

    @wraps(forward)
    def graphs(*arguments: Any, **inputs: Any) -> Any:
        step = next(steps)
        if inputs.get("attention_mask") is None:  # generate leaves out a mask of ones
            inputs["attention_mask"] = torch.ones(len(ids), ids.shape[1] + step, dtype=torch.int64)
        if step:
            return _run(exported.runners["decode"], **inputs)
        if not replaced:
            return _run(exported.runners["prefill"], **inputs)
        for module, runner in replaced:
            module.forward = _replacement(module.forward, runner)
        try:
            return forward(*arguments, **inputs)
        finally:
            for module, _ in replaced:
                del module.forward

    model.forward = graphs
    limits = copy.deepcopy(settings)
    limits.max_new_tokens = STEPS
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=limits)[:, ids.shape[1] :].tolist()


def _run(runner: Any, **inputs: Any) -> Any:
    """Run a graph on what it was traced with: the rest are hints, such as logits_to_keep."""
    return runner(**{name: value for name, value in inputs.items() if name in runner.metadata.kwargs})


def _replacement(forward: Callable[..., Any], runner: Any) -> Callable[..., Any]:
    names = list(runner.metadata.kwargs)

    @wraps(forward)
    def run(*arguments: Any, **inputs: Any) -> Any:
        return _run(runner, **dict(zip(names, arguments, strict=False)), **inputs)

    return run


TOOL = Tool("transformers", {"growing cache": partial(_build, {}), "static cache": partial(_build, STATIC)}, _answer)
