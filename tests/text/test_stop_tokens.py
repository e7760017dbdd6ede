"""stop_tokens: the tokens that end a text, out of all files of a checkpoint and of an artifact's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.text.stop_tokens import end_tokens, ids_of, stop_tokens


def test_an_artifact_s_folder_has_all_of_them(tmp_path: Path) -> None:
    """One, several, none, no file."""
    for stored, wanted in ((5, {5}), ([5, 2], {2, 5}), (None, set())):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stored}))
        assert stop_tokens(tmp_path) == wanted
    assert stop_tokens(tmp_path / "nowhere") == frozenset()
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json is not valid JSON"):
        stop_tokens(tmp_path)


@pytest.mark.parametrize("stated", ["</s>", True, 2.5, [1, "2"], {"id": 2}])
def test_end_tokens_are_token_ids(tmp_path: Path, stated: Any) -> None:
    """transformers takes any type; the file and the key are named."""
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": stated}))
    with pytest.raises(UserError, match="it must be a token id, a list of token ids, or null") as error:
        end_tokens(path)
    assert error.value.problems[0].where == f"{path}: eos_token_id"


@pytest.mark.parametrize(("value", "ids"), [(None, set()), (3, {3}), ([3, 4], {3, 4}), ((5,), {5})])
def test_ids_given_in_any_form(value: Any, ids: set[int]) -> None:
    """As configurations hold them."""
    assert ids_of(value) == ids
