"""Make wrapped/ of a checkpoint: load the original, put it behind the graph contract, export it with torch."""

import copy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch._export.serde.serialize import SerializeError
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.checkpoint import loading
from pipeline.checkpoint.tokenizer import collect_stop_tokens, load_tokenizer
from pipeline.core import layout
from pipeline.core.contract import contract_for
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import write_json
from pipeline.core.schema import Axes, Cache, ComputeType, Logits, Model, Precision
from pipeline.core.tables.dtypes import COMPUTE
from pipeline.model import decoder, overflow, positions
from pipeline.model.adapters.text_part import keep_text_part
from pipeline.model.cast import cast
from pipeline.model.checks import dry_run
from pipeline.model.checks.failures import refused
from pipeline.model.refusals import unsupported_reason
from pipeline.model.tracing import trace, unread

SAMPLE = "The capital of France is Paris, and"  # text that an fp16 model is tried on; RANDOM_TOKENS random ones follow
RANDOM_TOKENS = 8


def _check_supported(model: PreTrainedModel) -> None:
    if error := unsupported_reason(model):
        raise error


def check_range(model: PreTrainedModel, tokenizer: Tokenizer | None) -> None:
    """Raise UserError for a model in fp16 that leaves fp16's range on a short text, or on random tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    text = [] if tokenizer is None else [token for token in tokenizer(SAMPLE)["input_ids"] if token < vocabulary]
    drawn = torch.randint(vocabulary, (RANDOM_TOKENS,), generator=torch.Generator().manual_seed(0))
    name = overflow.first_non_finite(model, [*text, *drawn.tolist()])
    if name is not None:
        raise UserError(
            Problem(
                f"the model overflows in fp16, which ends at 65504: the first non-finite output is that of {name}",
                "precision.compute",
                "choose precision=bf16 or precision=fp32",
            )
        )


def wrap(model: Model, axes: Axes, cache: Cache, precision: Precision, logits: Logits, link: Path, out: Path) -> None:
    """Write the wrapped model to the folder `out`."""
    config = loading.configuration(model, link)
    empty = loading.empty_model(model, link, copy.deepcopy(config))
    if empty is not None:  # before weights are loaded
        keep_text_part(empty)
        _check_supported(empty)
        if error := dry_run.refusal(empty):
            raise error
    original = loading.load(model, link, config)
    left_out = keep_text_part(original)
    _check_supported(original)
    failing = partial(refused, original, type(original).__name__)
    tokenizer = load_tokenizer(model, link)
    notes = [f"only the text decoder is built, without {', '.join(left_out)}"] if left_out else []
    with failing("its forward fails"):
        notes += positions.freeze(original, cache.size) + positions.unchecked(original, cache.size)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    with failing("its forward fails"):
        layers = decoder.cache_shapes(original, cache.size)
    compute = precision.compute.value
    contract = contract_for(
        layers,
        original.get_output_embeddings().weight.shape[0],
        compute,
        logits.value,
        {"batch": axes.batch, "sequence": axes.sequence},
        positions.limits(original.config),
        cache_size=cache.size,
    )
    original.generation_config.eos_token_id = collect_stop_tokens(model, link, original, tokenizer) or None
    original.generation_config.to_json_file(out / "generation_config.json")  # save_pretrained refuses odd settings
    with failing("its weights cannot be converted"):
        cast(original, getattr(torch, COMPUTE[compute].name))
        if wrong := positions.wrong_frequencies(original, cache.size):
            raise UserError(wrong)
    with failing("its forward fails"):
        if precision.compute is ComputeType.fp16:
            check_range(original, tokenizer)
        wrapped = decoder.Decoder(original, logits.value, layers).eval()
    with failing("it cannot be traced"):
        program = trace(wrapped, contract)
    contract = replace(contract, unused=unread(program, contract))
    with failing("its program cannot be saved", SerializeError):  # a full disk is a RuntimeError of PyTorch
        torch.export.save(program, out / layout.PROGRAM)
    contract.save(out / layout.CONTRACT)
    write_json(out / layout.NOTES, notes)
    if tokenizer is not None:
        # several templates would become a folder, which the engine stage does not copy
        tokenizer.save_pretrained(out, save_jinja_files=not isinstance(tokenizer.chat_template, dict))
