"""Types that are refused before torch and transformers are imported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import early
from pipeline.checkpoint import transformers_source as source
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.core.tables.refusals import Category


@pytest.mark.parametrize(
    ("kind", "config", "category"),
    [
        ("mamba", {}, None),
        ("rwkv", {}, Category.RECURRENT),
        ("blip", {}, Category.INPUTS),
        ("bert", {}, Category.ENCODER),
        ("bert", {"is_decoder": True}, None),
        ("t5", {}, Category.ENCODER_DECODER),
        ("whisper", {}, None),  # its decoder alone is a causal LM
        ("paligemma", {}, None),  # its text decoder
        ("modernbert", {}, Category.ENCODER),
        ("vit", {}, Category.OTHER_TASK),
        ("no_such_type", {}, Category.UNKNOWN),
        ("llama", {}, None),
        ("gpt2", {}, None),
    ],
)
def test_categories(kind: str, config: dict[str, Any], category: Category | None) -> None:
    """Each with its category; what can be built is not refused."""
    found = list(early.refusals(kind, config, "here", code=False))
    assert [problem.category for problem in found] == ([category] if category else [])


def test_another_release_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tables are not found nothing is refused here."""
    monkeypatch.setattr(source, "tables", dict)
    assert list(early.refusals("rwkv", {}, "here", code=False)) == []


def test_a_folder(tmp_path: Path) -> None:
    """By its config.json; not where its own code will run, and not without files."""
    model = Model(source=Source.local, path=str(tmp_path))
    early.check(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv", "auto_map": {"AutoModel": "a.B"}}))
    with pytest.raises(UserError, match="RwkvForCausalLM cannot be given a static cache"):
        early.check(model, tmp_path)
    early.check(Model(source=Source.local, path=str(tmp_path), trust_remote_code=True), tmp_path)


def test_it_imports_nothing_heavy() -> None:
    """The stage refuses with neither torch nor transformers."""
    code = (
        "import sys; from pathlib import Path; from pipeline import wrap; from pipeline.checkpoint import early\n"
        "from pipeline.core.schema import Model, Source; from pipeline.core.errors import UserError\n"
        "try: early.check(Model(source=Source.random, architecture='rwkv'), Path())\n"
        "except UserError: print({'torch', 'transformers', 'numpy'} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
