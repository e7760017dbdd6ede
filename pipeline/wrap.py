"""Stage wrap: checkpoint -> wrapped/, the exported program of the model behind the graph contract.

wrapped/ holds model.pt2 (weights included), signature.json, notes.json, generation_config.json and the tokenizer's
files.
"""

import sys
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.checkpoint import loading
from pipeline.checkpoint.gguf_reader import read_once
from pipeline.core import layout, stage
from pipeline.core.contract import DTYPES, GraphContract, contract_for
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import replacing_folder, write_json
from pipeline.core.patching import replaced
from pipeline.core.schema import Axes, Cache, ComputeType, Logits, Model, Precision, Wrap, section
from pipeline.model import decoder, overflow, positions, pt2
from pipeline.model.cast import cast
from pipeline.model.refusals import unsupported_reason

EXAMPLE = {"batch": 2, "sequence": 3}  # sizes that the tracer sees: not 0 or 1, which it would take as fixed
# Even an axis of one size is traced as symbolic, so the graph stays the same; the runtime holds the limit. In a range
# of 1 to 2 the tracer gives every input a symbol of its own.
LEAST_RANGE = 64
SAMPLE = "The capital of France is Paris, and"  # text that an fp16 model is tried on; RANDOM_TOKENS random ones follow
RANDOM_TOKENS = 8

CASTS = (torch.ops.aten.to.dtype, torch.ops.aten.to.device)


def trace(wrapped: decoder.Decoder, contract: GraphContract) -> ExportedProgram:
    """Export with batch and sequence symbolic under these names and everything else fixed."""
    fixed = [torch.zeros(t.sized(**EXAMPLE), dtype=getattr(torch, t.dtype)) for t in contract.inputs]
    fixed[1].fill_(1)  # attention_mask
    arguments = (*fixed[:4], fixed[4:])
    axes = {name: Dim(name, min=1, max=max(LEAST_RANGE, most)) for name, most in contract.axes.items()}
    dynamic = [{i: axes[d] for i, d in enumerate(t.shape) if isinstance(d, str)} for t in contract.inputs]
    # A stack for each node costs a second, and would name folders of this machine: equal programs would differ. Where a
    # model says no_grad once more (rotary embeddings do) the finished graph is split and put together again: 0.7 s.
    with (
        torch.no_grad(),
        replaced(torch.fx.config, do_not_emit_stack_traces=True),
        replaced(torch.no_grad, __enter__=lambda _: None, __exit__=lambda *_: None),
    ):
        program = torch.export.export(wrapped, arguments, dynamic_shapes=(*dynamic[:4], dynamic[4:]), strict=False)
    decoder.check_attention(wrapped, len(contract.caches) // 2)
    program.example_inputs = None  # two rows of every cache that the file would carry: 94 MB for SmolLM2-135M
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine: they would make equal programs differ
    _drop_no_ops(program.graph_module)
    return program


def _drop_no_ops(module: torch.fx.GraphModule) -> None:
    """Remove casts to the type that a tensor has already, and the tracer's assertions: 251 of SmolLM2's 2,020 nodes."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.target in CASTS and node.meta["val"].dtype == node.args[0].meta["val"].dtype:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _check_supported(model: PreTrainedModel) -> None:
    if reason := unsupported_reason(model):
        raise decoder.unsupported(type(model).__name__, reason)


def check_range(model: PreTrainedModel, tokenizer: Tokenizer | None) -> None:
    """Raise UserError for a model in fp16 that leaves fp16's range on a short text, or on random tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    text = [] if tokenizer is None else [token for token in tokenizer(SAMPLE)["input_ids"] if token < vocabulary]
    drawn = torch.randint(vocabulary, (RANDOM_TOKENS,), generator=torch.Generator().manual_seed(0))
    name = overflow.first_non_finite(model, [*text, *drawn.tolist()])
    if name is not None:
        raise UserError(
            Problem(
                f"the model overflows in fp16, which ends at 65504: the output of {name} is the first not finite",
                "precision.compute",
                "choose precision=bf16 or precision=fp32",
            )
        )


def wrap(model: Model, axes: Axes, cache: Cache, precision: Precision, logits: Logits, link: Path, out: Path) -> None:
    """Write the wrapped model to the folder `out`."""
    with read_once():
        config = loading.configuration(model, link)
        outline = loading.outline(model, link, config)
        if outline is not None:  # before weights are loaded
            _check_supported(outline)
        original = loading.load(model, link, config)
        _check_supported(original)
        tokenizer = loading.load_tokenizer(model, link)
    notes = positions.freeze(original, cache.size) + positions.unchecked(original, cache.size)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    layers = decoder.cache_shapes(original, cache.size)
    compute = precision.compute.value
    contract = contract_for(
        layers,
        original.get_output_embeddings().weight.shape[0],
        compute,
        logits.value,
        {"batch": axes.batch, "sequence": axes.sequence},
        positions.limits(original.config),
    )
    original.generation_config.eos_token_id = loading.stop_tokens(model, link, original, tokenizer) or None
    original.generation_config.to_json_file(out / "generation_config.json")  # save_pretrained refuses odd settings
    cast(original, getattr(torch, DTYPES[compute]))
    if wrong := positions.wrong_frequencies(original, cache.size):
        raise UserError(wrong)
    if precision.compute is ComputeType.fp16:
        check_range(original, tokenizer)
    wrapped = decoder.Decoder(original, logits.value).eval()
    pt2.save(trace(wrapped, contract), out / layout.PROGRAM)
    contract.save(out / layout.CONTRACT)
    write_json(out / layout.NOTES, notes)
    if tokenizer is not None:
        # several templates would become a folder, which the engine stage does not copy
        tokenizer.save_pretrained(out, save_jinja_files=not isinstance(tokenizer.chat_template, dict))


def main() -> None:
    """Run the stage in a point's folder."""
    with replacing_folder(Path(layout.WRAPPED)) as out:
        wrap(
            section(Model),
            section(Axes),
            section(Cache),
            section(Precision),
            section(Wrap).logits,
            Path(layout.CHECKPOINT),
            out,
        )


if __name__ == "__main__":
    stage.run("wrap", main)
