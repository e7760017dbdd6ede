"""onnxruntime-genai: its model builder's graph in its own generator."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from onnxruntime_genai.models import builder
from transformers import PreTrainedModel

from benchmarks.rivals.models import PAD, SLOTS, STEPS
from benchmarks.rivals.tools import Rows, Tool

CONFIG = "genai_config.json"


def _build(_: PreTrainedModel, checkpoint: Path, folder: Path) -> Path:
    """python -m onnxruntime_genai.models.builder -i checkpoint -o folder -p fp32 -e cpu -c cache"""
    arguments = None, str(checkpoint), str(folder), "fp32", "cpu", str(folder / "cache")
    builder.create_model(*arguments, **builder.parse_extra_options(*arguments, None))
    return folder


def _answer(folder: Path, rows: Rows, end: int) -> Rows:
    """Pad rows on the right, as its own tokenizer pads a batch: its generator finds them by the pad token."""
    settings = json.loads((folder / CONFIG).read_text())
    settings["model"] |= {"eos_token_id": [end], "pad_token_id": PAD}  # an overlay would add to the tokens there
    settings["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = 1
    (folder / CONFIG).write_text(json.dumps(settings))
    loaded = og.Model(str(folder))
    width = max(map(len, rows))
    ids = np.array([row + [PAD] * (width - len(row)) for row in rows], np.int32)
    params = og.GeneratorParams(loaded)
    params.set_search_options(batch_size=len(rows), max_length=SLOTS, do_sample=False)
    generator = og.Generator(loaded, params)
    generator.append_tokens(ids)
    for _ in range(STEPS):
        generator.generate_next_token()
    return [generator.get_sequence(row)[width:].tolist() for row in range(len(rows))]


TOOL = Tool("onnxruntime-genai", {"": _build}, _answer)
