"""Write genai_config.json: what onnxruntime-genai has to know of an engine for clients.

Its caches have a fixed number of slots, from which onnxruntime-genai follows that past and present share one buffer of
that size. There is no sliding_window: windows are attributes of the graph's nodes, and that key makes other caches.
"""

from pathlib import Path
from typing import Any

from pipeline.core import layout
from pipeline.core.contract import LOGITS, GraphContract
from pipeline.core.files import read_json, write_json
from pipeline.text.stop_tokens import GENERATION, stop_tokens


def write(out: Path, contract: GraphContract, threads: int = 0) -> None:
    """Write `out`/genai_config.json; the stop tokens are those of `out`/generation_config.json.

    contract: of the graph that clients run. threads: within an operator; 0 leaves it to the client.
    Raises UserError when generation_config.json is damaged.
    """
    write_json(out / layout.GENAI_CONFIG, config(out, contract, threads))


def config(out: Path, contract: GraphContract, threads: int = 0) -> dict[str, Any]:
    """The contents of genai_config.json."""
    key = contract.caches[0]
    vocab = int(contract.logits.shape[2])
    stop = sorted(token for token in stop_tokens(out) if token < vocab)  # others are refused, and never come
    stated = read_json(out / GENERATION) if (out / GENERATION).exists() else {}
    decoder: dict[str, Any] = {
        "filename": layout.MODEL,
        "head_size": key.shape[3],
        "num_hidden_layers": len(contract.caches) // 2,
        "num_key_value_heads": key.shape[1],
        "session_options": {"provider_options": []} | ({"intra_op_num_threads": threads} if threads else {}),
        "inputs": {name: name for name in ("input_ids", "attention_mask", "position_ids")}
        | {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")},
        "outputs": {LOGITS: LOGITS} | {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")},
    }
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": _token(vocab, stated.get("bos_token_id"), 0),
            "eos_token_id": stop,
            "pad_token_id": _token(vocab, stated.get("pad_token_id"), *stop, 0),
            "context_length": contract.cache_size,
            "vocab_size": vocab,
            "decoder": decoder,
        },
        "search": {
            "max_length": contract.cache_size,
            "past_present_share_buffer": True,
            "num_beams": 1,
            "do_sample": False,
        },
    }


def _token(vocab: int, *choices: Any) -> int:
    """The first of these that is a token id."""
    return next(choice for choice in choices if type(choice) is int and 0 <= choice < vocab)
