"""mobius: a model declared anew in ONNX, with a growing cache or, of some models, a static one."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from mobius.__main__ import main
from transformers import PreTrainedModel

from benchmarks.rivals.models import PAD, SLOTS, STEPS, padded_left
from benchmarks.rivals.tools import Rows, Tool

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def _build(options: list[str], _: PreTrainedModel, checkpoint: Path, folder: Path) -> Path:
    """mobius build --model checkpoint --dtype f32 folder"""
    main(["build", "--model", str(checkpoint), "--dtype", "f32", *options, str(folder)])
    return folder


def _answer(folder: Path, rows: Rows, _: int) -> Rows:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    types = {tensor.name: tensor for tensor in session.get_inputs()}
    if "logits" not in (names := [tensor.name for tensor in session.get_outputs()]):
        raise ValueError(f"the graph has no logits, but {names[0]}: it is an encoder")
    return (_static if "write_indices" in types else _growing)(session, types, rows)


def _static(session: ort.InferenceSession, types: dict[str, Any], rows: Rows) -> Rows:
    """Pad on the right: what comes next overwrites the padding."""
    batch, lengths = len(rows), np.array([len(row) for row in rows])
    outputs = [tensor.name for tensor in session.get_outputs()]
    caches = {
        name: np.zeros((batch, *tensor.shape[1:]), TYPES[tensor.type])
        for name, tensor in types.items()
        if "_cache." in name
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
    """Pad on the left, with a mask; what the graph calls past.* it gives back as present.*"""
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
    return np.zeros([batch, *shape[1:]], TYPES[tensor.type])


STATIC = ["--static-cache", "--max-seq-len", str(SLOTS)]
TOOL = Tool("mobius-onnx", {"growing cache": partial(_build, []), "static cache": partial(_build, STATIC)}, _answer)
