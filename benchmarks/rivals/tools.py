"""Other exporters, each by its own command or function: `build` writes its files, `answer` runs them.

`answer` gets rows of different lengths as one batch, and pads them in the way that the tool's graph can express.
"""

import copy
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.rivals.models import PAD, SLOTS, STEPS, Rows, padded_left

Built = Any


@dataclass(frozen=True)
class Tool:
    """One exporter. distribution: its package. build(model, checkpoint, folder) -> what `answer` runs."""

    name: str
    distribution: str
    build: Callable[[PreTrainedModel, Path, Path], Built]
    answer: Callable[[Built, Rows], Rows]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _exporters_build(model: PreTrainedModel, _: Path, __: Path) -> Built:
    """Two graphs, for prompts and for decoding, with a static cache; where that fails, with a growing one."""
    from transformers.exporters import OnnxConfig, OnnxExporter

    ids, mask = padded_left([[9, 10, 11, 12, 13, 14], [15, 16, 17, 18]])
    static = GenerationConfig(cache_implementation="static", max_cache_len=SLOTS, do_sample=False, pad_token_id=PAD)
    growing = GenerationConfig(do_sample=False, pad_token_id=PAD)
    failed: list[Exception] = []
    for settings in (static, growing):
        try:
            inputs = {"input_ids": ids, "attention_mask": mask}
            exported = OnnxExporter().export_for_generation(
                model, inputs, OnnxConfig(dynamic=True), generation_config=settings
            )
            return model, exported, settings
        except Exception as error:  # whatever a model's code raises
            failed.append(error)
    raise failed[0]


def _exporters_answer(built: Built, rows: Rows) -> Rows:
    """transformers' own generate, with the graphs in place of the model's forward."""
    model, exported, settings = built
    ids, mask = padded_left(rows)
    limits = copy.deepcopy(settings)
    limits.max_new_tokens = limits.min_new_tokens = STEPS
    parts = itertools.chain(["prefill"], itertools.repeat("decode"))

    @functools.wraps(model.forward)
    def forward(*_: Any, **inputs: Any) -> Any:
        runner = exported.runners[next(parts)]
        return runner(**{name: value for name, value in inputs.items() if name in runner.metadata.kwargs})

    model.forward = forward
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=limits)[:, ids.shape[1] :].tolist()


def _genai_build(_: PreTrainedModel, checkpoint: Path, folder: Path) -> Built:
    where = ["-i", str(checkpoint), "-o", str(folder), "-c", str(folder / "cache")]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *where, "-p", "fp32", "-e", "cpu"]
    _run(command)
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"{command[2]} ended with {done.returncode}")


def _genai_answer(folder: Path, rows: Rows) -> Rows:
    """Rows padded on the right, as its own tokenizer pads a batch: its generator finds them by the pad token."""
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"eos_token_id": [1], "pad_token_id": PAD}}))  # no prompt has token 1
    model = og.Model(config)
    width = max(map(len, rows))
    ids = np.array([row + [PAD] * (width - len(row)) for row in rows], np.int32)
    params = og.GeneratorParams(model)
    longest = width + STEPS
    params.set_search_options(batch_size=len(rows), max_length=longest, min_length=longest, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    for _ in range(STEPS):
        generator.generate_next_token()
    return [generator.get_sequence(row)[width:].tolist() for row in range(len(rows))]


def _mobius_build(_: PreTrainedModel, checkpoint: Path, folder: Path) -> Built:
    """Its static cache where it has one for the model, else a growing one."""
    command = [str(Path(sys.executable).with_name("mobius")), "build", "--config", str(checkpoint), "--dtype", "f32"]
    try:
        _run([*command, "--static-cache", "--max-seq-len", str(SLOTS), str(folder / "static")])
        return folder / "static"
    except RuntimeError:
        _run([*command, str(folder / "growing")])
        return folder / "growing"


def _mobius_answer(folder: Path, rows: Rows) -> Rows:
    session = _session(next(folder.rglob("model.onnx")))
    types = {tensor.name: tensor for tensor in session.get_inputs()}
    return (_static if "write_indices" in types else _growing)(session, types, rows)


def _static(session: ort.InferenceSession, types: dict[str, Any], rows: Rows) -> Rows:
    """Rows padded on the right; the padding is overwritten by what comes next."""
    batch, lengths = len(rows), np.array([len(row) for row in rows])
    outputs = [tensor.name for tensor in session.get_outputs()]
    caches = {
        name: np.zeros((batch, *tensor.shape[1:]), np.float32) for name, tensor in types.items() if "_cache." in name
    }
    new = np.array([row + [PAD] * (max(lengths) - len(row)) for row in rows])
    used, last, answers = np.zeros(batch, np.int64), lengths - 1, []
    for _ in range(STEPS):
        feeds = {
            "input_ids": new,
            "position_ids": used[:, None] + np.arange(new.shape[1]),
            "write_indices": used,
            "nonpad_kv_seqlen": used + new.shape[1],
            **caches,
        }
        got = dict(zip(outputs, session.run(None, {name: feeds[name] for name in types}), strict=True))
        caches = {name: got[f"updated_{name}"] for name in caches}
        used = used + last + 1
        answers.append(got["logits"][np.arange(batch), last].argmax(-1))
        new, last = answers[-1][:, None], np.zeros(batch, np.int64)
    return np.stack(answers, 1).tolist()


def _growing(session: ort.InferenceSession, types: dict[str, Any], rows: Rows) -> Rows:
    """Rows padded on the left, with a mask; what the graph calls past.* it gives back as present.*"""
    ids, mask = (tensor.numpy() for tensor in padded_left(rows))
    outputs = [tensor.name for tensor in session.get_outputs()]
    states = {name: _empty(tensor, len(rows)) for name, tensor in types.items() if name.startswith("past")}
    new, answers = ids, []
    for _ in range(STEPS):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -new.shape[1] :]
        feeds = {"input_ids": new, "attention_mask": mask, "position_ids": positions, **states}
        got = dict(zip(outputs, session.run(None, {name: feeds[name] for name in types}), strict=True))
        states = {name: got[_present(name, outputs)] for name in states}
        answers.append(got["logits"][:, -1].argmax(-1))
        new = answers[-1][:, None]
        mask = np.concatenate([mask, np.ones_like(new)], 1)
    return np.stack(answers, 1).tolist()


def _present(name: str, outputs: list[str]) -> str:
    rest = name.partition(".")[2]
    return next(output for output in outputs if output.startswith("present") and output.endswith(f".{rest}"))


def _empty(tensor: Any, batch: int) -> np.ndarray:
    """Nothing past: an axis with a name is the batch, or has no entry yet."""
    shape = [size if isinstance(size, int) else 0 for size in tensor.shape]
    kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}[tensor.type]
    return np.zeros([batch, *shape[1:]], kind)


TOOLS = (
    Tool("transformers.exporters", "transformers", _exporters_build, _exporters_answer),
    Tool("onnxruntime-genai", "onnxruntime-genai", _genai_build, _genai_answer),
    Tool("mobius", "mobius-onnx", _mobius_build, _mobius_answer),
)
