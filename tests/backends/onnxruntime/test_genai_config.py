"""genai_config.json: numbers of the graph, tokens of the generation config."""

import json
from pathlib import Path

import pytest

from pipeline.backends.onnxruntime.genai_config import config
from pipeline.core import layout
from pipeline.core.contract import GraphContract


def test_numbers_are_those_of_the_graph(client: tuple[Path, GraphContract]) -> None:
    """Caches, vocabulary and names; no sliding window, which would make other caches."""
    written = json.loads((client[0] / layout.ENGINE / layout.GENAI_CONFIG).read_text())
    model, decoder = written["model"], written["model"]["decoder"]
    cache = client[1].caches[0]
    assert (decoder["num_key_value_heads"], model["context_length"], decoder["head_size"]) == cache.shape[1:]
    assert decoder["num_hidden_layers"] * 2 == len(client[1].caches)
    assert decoder["inputs"]["past_key_names"] % 0 == cache.name
    assert decoder["outputs"]["present_key_names"] % 0 in client[1].aliases
    assert model["vocab_size"] == client[1].logits.shape[2]
    assert written["search"]["max_length"] == client[1].cache_size
    assert "sliding_window" not in decoder


@pytest.mark.parametrize(
    ("stated", "want"),
    [
        ({"eos_token_id": [7, 5], "pad_token_id": 3, "bos_token_id": 1}, (1, [5, 7], 3)),
        ({"eos_token_id": 7, "bos_token_id": None}, (0, [7], 7)),
        ({"eos_token_id": [7, 512], "pad_token_id": -1, "bos_token_id": 512}, (0, [7], 7)),  # outside the vocabulary
        ({}, (0, [], 0)),
        (None, (0, [], 0)),
    ],
)
def test_tokens(
    stated: dict[str, object] | None, want: object, client: tuple[Path, GraphContract], tmp_path: Path
) -> None:
    """A list of stop tokens; padding with one of them where the model has no other."""
    if stated is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    model = config(tmp_path, client[1])["model"]
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == want


def test_threads(client: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """As many as the engine says; else the client decides."""
    found = [config(tmp_path, client[1], n)["model"]["decoder"]["session_options"] for n in (3, 0)]
    assert [options.get("intra_op_num_threads") for options in found] == [3, None]
