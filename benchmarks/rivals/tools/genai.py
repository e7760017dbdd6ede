"""onnxruntime-genai: its model builder's graph in its own generator."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from onnxruntime_genai.models import builder
from transformers import PreTrainedModel

from benchmarks.rivals.models import PAD, STEPS
from benchmarks.rivals.tools import Rows, Tool


def _build(_: PreTrainedModel, checkpoint: Path, folder: Path) -> Path:
    """python -m onnxruntime_genai.models.builder -i checkpoint -o folder -p fp32 -e cpu -c cache"""
    arguments = None, str(checkpoint), str(folder), "fp32", "cpu", str(folder / "cache")
    builder.create_model(*arguments, **builder.parse_extra_options(*arguments, None))
    return folder


def _answer(folder: Path, rows: Rows, end: int) -> Rows:
    """Pad rows on the right, as its own tokenizer pads a batch: its generator finds them by the pad token."""
    config = og.Config(str(folder))
    session = {"intra_op_num_threads": 1}
    model = {"eos_token_id": [end], "pad_token_id": PAD, "decoder": {"session_options": session}}
    config.overlay(json.dumps({"model": model}))
    width = max(map(len, rows))
    ids = np.array([row + [PAD] * (width - len(row)) for row in rows], np.int32)
    loaded = og.Model(config)
    params = og.GeneratorParams(loaded)
    params.set_search_options(batch_size=len(rows), max_length=width + STEPS, do_sample=False)
    generator = og.Generator(loaded, params)
    generator.append_tokens(ids)
    for _ in range(STEPS):
        generator.generate_next_token()
    return [generator.get_sequence(row)[width:].tolist() for row in range(len(rows))]


TOOL = Tool("onnxruntime-genai", {"": _build}, _answer)
