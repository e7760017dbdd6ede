"""contract: the tensors of a decoder, by name, type and shape, and back from the file."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.core.contract import GraphContract, Tensor, contract_for

KEY, VALUE = (2, 64, 16), (2, 64, 8)
LAYER = {"key": KEY, "value": VALUE}
CONTRACT = contract_for([LAYER] * 2, 512, "bf16", "last", {"batch": 4, "sequence": 32}, (6,))


def test_tensors_of_a_decoder() -> None:
    """Tokens are int64, caches and logits have the compute type; key comes before value, layer by layer."""
    assert [tensor.name for tensor in CONTRACT.inputs[:4]] == [
        "input_ids", "attention_mask", "position_ids", "cache_position"
    ]  # fmt: skip
    assert {tensor.dtype for tensor in CONTRACT.inputs[:4]} == {"int64"}
    assert [tensor.name for tensor in CONTRACT.caches] == [
        f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")
    ]
    assert [tensor.shape for tensor in CONTRACT.caches[:2]] == [("batch", *KEY), ("batch", *VALUE)]
    assert CONTRACT.logits == Tensor("logits", "bfloat16", ("batch", 1, 512))
    assert CONTRACT.aliases["present.1.value"] == "past_key_values.1.value"
    assert CONTRACT.cache_size == 64


def test_logits_at_every_position() -> None:
    """The sequence is an axis then."""
    every = contract_for([LAYER], 512, "fp32", "all", {"batch": 4, "sequence": 32})
    assert every.logits.sized(batch=2, sequence=5) == (2, 5, 512)


def test_the_inputs_of_clients() -> None:
    """A mask over all slots in use, and no cache_position, which their position_ids give."""
    contract = replace(CONTRACT, unused=("position_ids",))
    other = contract.for_clients()
    assert [tensor.name for tensor in other.inputs[:4]] == [
        "input_ids", "attention_mask", "position_ids", "past_key_values.0.key"
    ]  # fmt: skip
    assert other.inputs[1].shape == ("batch", "total_sequence")
    assert (other.outputs, other.aliases, other.unused) == (contract.outputs, contract.aliases, ())
    assert (contract.is_for_clients, other.is_for_clients) == (False, True)


def test_a_shape_in_numbers() -> None:
    """Every axis of it must be given."""
    assert CONTRACT.caches[0].sized(batch=3) == (3, *KEY)
    with pytest.raises(KeyError):
        CONTRACT.inputs[0].sized(batch=3)


def test_the_file_gives_the_same_back(tmp_path: Path) -> None:
    """Tuples included; a file from before `limits` has none."""
    CONTRACT.save(tmp_path / "signature.json")
    assert GraphContract.load(tmp_path / "signature.json") == CONTRACT
    raw = {"inputs": [], "outputs": [], "aliases": {}, "axes": {}, "cache_size": 64}
    assert GraphContract.from_dict(raw) == replace(CONTRACT, inputs=(), outputs=(), aliases={}, axes={}, limits=())


@pytest.mark.parametrize(("window", "slots"), [(1, 1), (6, 6), (6, 7), (6, 12), (5, 13)])
def test_a_narrow_cache_drops_a_rows_first_tokens(window: int, slots: int) -> None:
    """As one does that is filled token by token and, when it is full, keeps what the new token's window needs."""
    key, value = CONTRACT.caches[:2]
    narrow = CONTRACT.narrowed({key.name: window}, {key.name: slots})
    assert [tensor.shape[2] for tensor in narrow.caches] == [slots, 64, 64, 64]
    assert {tensor.name: tensor.shape[2] for tensor in narrow.outputs[1:]}["present.0.key"] == slots
    held = list[int]()
    for token in range(40):
        assert narrow.dropped(narrow.caches[0], token) == (held[0] if held else 0)
        assert narrow.dropped(value, token) == 0
        if len(held) == slots:
            held = held[slots - window + 1 :]
        held.append(token)
    assert GraphContract.from_dict(asdict(narrow)) == narrow


def test_a_quantized_cache(tmp_path: Path) -> None:
    """Its type on both sides, two numbers of 4 bits in a byte, and scales that survive the file; all else stays."""
    plain = contract_for([{"key": (2, 8, 4), "value": (2, 8, 6)}], 9, "fp32", "last", {"batch": 2, "sequence": 4})
    scales = {cache.name: [[0.1] * int(cache.shape[3])] * 2 for cache in plain.caches}
    for bits, dtype, widths in ((8, "int8", [4, 6]), (4, "uint8", [2, 3])):
        quantized = plain.quantized(bits, scales)
        for tensors in (quantized.caches, quantized.outputs[1:]):
            assert [(t.dtype, *t.shape) for t in tensors] == [(dtype, "batch", 2, 8, width) for width in widths]
        assert (quantized.inputs[:4], quantized.logits) == (plain.inputs[:4], plain.logits)
        quantized.save(tmp_path / "signature.json")
        assert GraphContract.load(tmp_path / "signature.json") == quantized
