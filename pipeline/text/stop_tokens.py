"""The tokens that end a text."""

import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import Problem, UserError
from pipeline.core.files import read_json

GENERATION = "generation_config.json"


def stop_tokens(folder: Path) -> frozenset[int]:
    """The tokens that end a text, from the generation config in an artifact's folder, where stage wrap wrote them.

    Raises UserError when the file is damaged.
    """
    path = folder / GENERATION
    return end_tokens(path) if path.exists() else frozenset()


def end_tokens(path: Path) -> frozenset[int]:
    """The tokens that end a text, from a generation_config.json. Raises UserError when the file is damaged.

    transformers ignores a file that is not JSON and accepts end tokens of any type.
    """
    stated = read_json(path).get("eos_token_id")
    ids = [] if stated is None else stated if isinstance(stated, list) else [stated]
    if not all(type(number) is int for number in ids):  # not bool, which is an int too
        what = f"eos_token_id is {json.dumps(stated)[:100]}; it must be a token id, a list of token ids, or null"
        raise UserError(Problem(what, f"{path}: eos_token_id", "correct it; the tokenizer's files have the ids"))
    return frozenset(ids)


def ids_of(value: Any) -> frozenset[int]:
    """Token ids that are given as one id, as a list or as None."""
    return frozenset(value if isinstance(value, list | tuple) else [] if value is None else [value])
