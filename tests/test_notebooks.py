"""The notebooks, run from top to bottom on a tiny model, in a kernel of their own."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.support.architectures import small_llama
from tests.support.repository import ROOT, environment, make_whole

KAGGLE = ROOT / "notebooks/kaggle.ipynb"
TINY = ["axes=tiny", "cache.size=128", "profile=tiny", "verify.greedy_tokens=16", "verify.quality.tokens=0"]
PARAMETERS = """\
REPOSITORY = ""
OVERRIDES = {overrides}
POINT = "notebook"
PROMPT = "w1 w2 w3"
INSTALL = False
"""


def checkpoint(folder: Path) -> list[str]:
    """Write a tiny model that has a tokenizer, and return the overrides that build it."""
    small_llama(0).save_pretrained(folder)
    words = Tokenizer(WordLevel({"<s>": 0} | {f"w{n}": n for n in range(1, 100)}, "<s>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return ["model.source=local", f"model.path={folder}", "model.package=null", *TINY, "bench.prompt=16"]


def test_the_repository_has_it_without_outputs() -> None:
    """Outputs change with every run."""
    notebook = nbformat.read(KAGGLE, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert "has not been seen" in notebook.cells[0].source


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell ends well: the point is verified, answers, and its report is shown; no GPU, so no plan for one."""
    folder = make_whole(tmp_path / "repository", "points: {}\n")
    (folder / "notebooks").mkdir()
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")  # doctor reads it
    shutil.copyfile(KAGGLE, folder / "notebooks/kaggle.ipynb")
    for key, value in environment(folder).items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(KAGGLE, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert {line.split(" = ")[0] for line in PARAMETERS.splitlines()} == {
        line.split(" = ")[0] for line in parameters.source.splitlines()
    }
    parameters.source = PARAMETERS.format(overrides=checkpoint(tmp_path / "model"))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder / "notebooks")}})
    client.execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "verified" in text
    assert (folder / "artifacts/report.html").exists()
    assert "iframe" in str(notebook.cells[-1].outputs)
