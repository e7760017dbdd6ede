"""layout: which folder holds the model that an engine is built from."""

from pathlib import Path

from pipeline.core.layout import CONTRACT, MODEL, QUANTIZED, SIMPLIFIED, WRAPPED, contract, final_model


def test_the_final_model_is_the_quantized_one_where_there_is_one(tmp_path: Path) -> None:
    """A quantized/ without a model, as of a point whose weights stay, does not count."""
    for name in (SIMPLIFIED, QUANTIZED):
        (tmp_path / name).mkdir()
    (tmp_path / SIMPLIFIED / MODEL).touch()
    assert final_model(tmp_path) == tmp_path / SIMPLIFIED
    (tmp_path / QUANTIZED / MODEL).touch()
    assert final_model(tmp_path) == tmp_path / QUANTIZED


def test_the_contract_is_the_models_own_if_it_has_one(tmp_path: Path) -> None:
    """As with a quantized cache; else that of wrapped/."""
    wrapped, model = tmp_path / WRAPPED, tmp_path / QUANTIZED
    model.mkdir()
    assert contract(wrapped, model) == wrapped / CONTRACT
    (model / CONTRACT).touch()
    assert contract(wrapped, model) == model / CONTRACT
