"""A quantized cache in standard operators: bytes and numbers against NumPy, and what an attention is found to read."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from pipeline.core.arrays import Array
from pipeline.core.tables.engines import CPU
from pipeline.graph import quantized_cache
from pipeline.graph.editor import Editor
from pipeline.graph.quantized_cache import CacheRead

SCALES = np.array([[0.5, 1.0, 0.25, 3.0], [2.0, 0.1, 1.0, 0.7]], np.float32)


def written_and_read() -> ir.Model:
    """A graph that scatters `new` [1, 2, sequence, 4] into `past` and doubles all of the cache."""
    return ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 24]>
        g (float[1, 2, 5, 4] past, float[1, 2, 3, 4] new, int64[1] slot)
          => (float[1, 2, 5, 4] present, float[1, 2, 5, 4] twice) {
          present = TensorScatter<axis = 2>(past, new, slot)
          twice = Add(present, present)
        }"""
    )


def run(model: ir.Model, past: Array, new: Array) -> tuple[Array, Array]:
    """`present` and `twice`, with the new tokens in slots 1 to 3."""
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=[CPU])
    present, twice = session.run(None, {"past": past, "new": new, "slot": np.array([1])})
    return present, twice


@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_and_numbers(bits: int) -> None:
    """Rounded half to even and saturated, in the order of the docstring; other slots keep their bytes."""
    model = written_and_read()
    editor = Editor(model)
    quantized_cache.quantize(editor, editor.nodes("TensorScatter")[0], bits, SCALES)
    editor.finish()
    new = (np.random.default_rng(0).standard_normal((1, 2, 3, 4)) * 9).astype(np.float32)
    new[0, 0, 0], new[0, 1, 0] = [0.25, 0.5, 0.625, 4.5], [1e3, -1e3, -1e9, 1e9]  # ties, and far too large
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    whole = np.clip(np.rint(new / SCALES[:, None]), lowest, highest)
    if bits == 8:
        past, bytes_ = np.full((1, 2, 5, 4), 3, np.int8), whole.astype(np.int8)
        old = 3 * SCALES[:, None]
    else:
        past, nibbles = np.full((1, 2, 5, 2), 0x2F, np.uint8), (whole + 8).astype(np.uint8)
        bytes_ = nibbles[..., 0::2] + 16 * nibbles[..., 1::2]
        old = np.array([7, -6, 7, -6], np.float32) * SCALES[:, None]
    present, twice = run(model, past, new)
    np.testing.assert_array_equal(present[:, :, 1:4], bytes_)
    np.testing.assert_array_equal(present[:, :, [0, 4]], past[:, :, [0, 4]])
    np.testing.assert_allclose(twice[:, :, 1:4], 2 * whole * SCALES[:, None], rtol=1e-6)
    np.testing.assert_allclose(twice[:, :, [0, 4]], np.broadcast_to(2 * old, (1, 2, 2, 4)), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_an_attention_reads(bits: int) -> None:
    """The scatter, what was new before it was rounded, and the scales; a plain cache has none."""
    model = written_and_read()
    editor = Editor(model)
    (write,) = editor.nodes("TensorScatter")
    plain = CacheRead.of(write.outputs[0])
    assert plain is not None
    assert (plain.write, plain.new.name, plain.bits, plain.scales) == (write, "new", 0, None)
    quantized_cache.quantize(editor, write, bits, SCALES)
    found = CacheRead.of(editor.nodes("Add")[0].inputs[0])
    assert found is not None
    assert (found.write, found.new.name, found.bits) == (write, "new", bits)
    assert found.scales is not None
    assert found.scales.const_value is not None
    np.testing.assert_array_equal(found.scales.const_value.numpy()[:, 0], SCALES)


def test_anything_else_is_no_cache() -> None:
    """An input, nothing, and a sum."""
    model = written_and_read()
    assert [CacheRead.of(value) for value in (None, model.graph.inputs[0], model.graph.outputs[1])] == [None] * 3
