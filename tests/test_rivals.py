"""make coverage-others: what counts as right, which of a tool's ways counts, and the page. The tools themselves are not
installed here."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.rivals import attempt, models, report, tools
from benchmarks.rivals.models import PAD, STEPS, Rows
from pipeline.core.files import write_json

KIND = "llama"


@pytest.fixture(scope="module", name="original")
def _original() -> PreTrainedModel:
    return models.original(KIND)


@pytest.fixture(scope="module", name="right")
def _right(original: PreTrainedModel) -> Rows:
    """The tokens that follow each prompt."""
    return models.greedy(original, models.prompts())


def changed(answers: Rows) -> Rows:
    """The same, but for the sixth token of the second row."""
    row = answers[1]
    return [answers[0], [*row[:5], (row[5] + 1) % models.VOCABULARY, *row[6:]], *answers[2:]]


def test_the_first_wrong_token(original: PreTrainedModel, right: Rows) -> None:
    """It is named with its row; an answer that is too short is wrong."""
    rows = models.prompts()
    assert models.first_wrong(original, rows, right) == ""
    wrong = models.first_wrong(original, rows, changed(right))
    assert re.fullmatch(r"row 1, token 5 is not the original's \(its logit is \d\.\d+ s.d. lower\)", wrong)
    assert (
        models.first_wrong(original, rows, [right[0][:-1], *right[1:]]) == f"row 0 has {STEPS - 1} tokens, not {STEPS}"
    )


def test_either_of_two_equal_tokens_is_right(
    original: PreTrainedModel, right: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any difference allowed every token is as good as the best."""
    monkeypatch.setattr(models, "TIE", 100.0)
    assert models.first_wrong(original, models.prompts(), changed(right)) == ""


def test_generate_agrees(right: Rows) -> None:
    """transformers' generate with a cache chooses what the original does without one."""
    assert models.generated(models.original(KIND), models.prompts()) == right


def test_an_original_is_the_same_each_time(original: PreTrainedModel) -> None:
    """Same weights, none of them constant, and a vocabulary that no other matrix has as its size."""
    again = dict(models.original(KIND).named_parameters())
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, again[name])
        assert len(parameter.unique()) > 1
        assert (models.VOCABULARY in parameter.shape) == ("embed_tokens" in name or "lm_head" in name)


def test_padding() -> None:
    """On the left, with a mask."""
    ids, mask = models.padded_left([[8, 9], [8, 9, 10]])
    assert ids.tolist() == [[PAD, 8, 9], [8, 9, 10]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert models.unused([[8, 10], [9, 3]]) == 11


def fails(*_: Any) -> None:
    """A way to build that is not one."""
    raise NotImplementedError("Llama is not supported")


def by(answer: Callable[[Rows], Rows]) -> Callable[..., Any]:
    """A way to build a model that gives these answers."""
    return lambda *_: answer


@pytest.mark.parametrize("best", ["right", "alone", "wrong", "does not run", "refused"])
def test_the_best_of_the_ways_counts(best: str, right: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Way by way until one is right; a batch that is wrong is tried row by row."""
    known = {tuple(row): answer for row, answer in zip(models.prompts(), right, strict=True)}

    def alone(rows: Rows) -> Rows:
        answers = [known[tuple(row)] for row in rows]
        return changed(answers) if len(rows) > 1 else answers

    def stops(_: Rows) -> Rows:
        raise RuntimeError("no kernel")

    ways = {"refused": fails, "does not run": by(stops), "wrong": by(lambda rows: changed(right)[: len(rows)])}
    ways |= {"alone": by(alone), "right": by(lambda rows: [known[tuple(row)] for row in rows])}
    if best == "wrong":
        ways["wrong"] = by(lambda rows: [[1] * STEPS for _ in rows])
    ways = dict(list(ways.items())[: list(ways).index(best) + 1])
    tool = tools.Tool("transformers", ways, lambda built, rows, _: built(rows))
    monkeypatch.setattr(tools, "load", lambda _: tool)
    found = attempt.attempt("a tool", KIND)
    assert (found["status"], found["way"]) == (best, best)
    reasons = {
        "right": "",
        "alone": "in a batch: row 1, token 5 is not the original's",
        "wrong": "row 0, token 0 is not the original's",
        "does not run": "RuntimeError: no kernel",
        "refused": "NotImplementedError: Llama is not supported",
    }
    assert found["reason"].partition(" (")[0] == reasons[best]


def test_an_original_that_does_not_run() -> None:
    """There is nothing to compare with."""
    assert attempt.attempt("mobius", "no such type")["status"] == "no model"


def test_an_error_on_a_line() -> None:
    """The same in each run: without colours, addresses and temporary folders."""
    error = RuntimeError("\x1b[96mThe /tmp/x1/checkpoint\nhas <a.B object at 0x7f89>\x1b[0m ✅")
    assert attempt.text(error) == "RuntimeError: The checkpoint has <a.B>"
    assert attempt.REFUSES.search("KeyError: Unknown model_type 'x'")
    assert not attempt.REFUSES.search("'<=' not supported between instances")


def test_page(tmp_path: Path) -> None:
    """Counts without the types that have no original, and who else is right on the same types."""
    rows = {
        "b": {"status": "wrong", "reason": "row 0 | token 0"},
        "a": {"status": "right", "reason": ""},
        "c": {"status": "no model", "reason": "no such size"},
        "d": report.crashed("its process ended with -9"),
    }
    ours = {"a": {"onnxruntime": "pass"}, "b": {"onnxruntime": "pass"}, "d": {"onnxruntime": "refused"}}
    write_json(tmp_path / report.OURS, {"types": ours})
    report.write(tmp_path / "others.json", {"tool": {"version": "1", "types": rows}}, known=5)
    page = (tmp_path / "others.md").read_text(encoding="utf-8")
    assert "| kvforge | 3 | 2 | 2 | 0 | 0 | 0 | 1 | 0 | 2 |" in page
    assert "| tool 1 | 3 | 2 | 1 | 0 | 1 | 0 | 0 | 1 | 2 |" in page
    assert "tool was run on 4 types, drawn at random; 1 are left (the command goes on)." in page
    assert "Right: `a`.\n" in page
    assert "| `b` | wrong | row 0 \\| token 0 |" in page
    assert "| `d` | crashed | took more than 120 seconds of a processor |" in page
    assert list(report.read(tmp_path / "others.json")["tool"]["types"]) == ["a", "b", "c", "d"]
