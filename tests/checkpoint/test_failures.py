"""failures: which errors of transformers are the user's, what they say, and which pass."""

import errno
import logging

import pytest
from safetensors import SafetensorError

from pipeline.checkpoint.failures import CONFIGURATION, reported, without_report
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source

LOCAL = Model(source=Source.local, path="folder")
TRUSTED = Model(source=Source.local, path="folder", trust_remote_code=True)


def problem(error: Exception, model: Model = LOCAL, part: str = "model") -> Problem:
    """The one problem that an error becomes."""
    with pytest.raises(UserError) as found, reported(model, part, "folder/x"):
        raise error
    (one,) = found.value.problems
    return one


@pytest.mark.parametrize(
    ("error", "model", "part", "says"),
    [
        (ImportError("No module named 'x'"), LOCAL, "model", "folder needs packages that are missing"),
        (SafetensorError("header too large"), LOCAL, "model", "a file of folder is cut short or corrupt"),
        (ValueError("unknown\nlines"), LOCAL, "tokenizer", "the tokenizer of folder does not load: unknown"),
        (OSError(errno.EIO, "bad disk"), LOCAL, "model", "the model of folder does not load: "),
        (KeyError("gelu_x"), LOCAL, CONFIGURATION, "transformers does not know 'gelu_x'"),
        (TypeError("no int"), LOCAL, CONFIGURATION, "does not load: TypeError: no int"),
        (TypeError("no int"), TRUSTED, "model", "the code that came with folder fails: TypeError: no int"),
    ],
)
def test_errors_that_are_the_user_s(error: Exception, model: Model, part: str, says: str) -> None:
    """One problem each, with its place and the original as its cause."""
    found = problem(error, model, part)
    assert says in found.what
    assert found.where == "folder/x" or __file__ in found.where  # of trusted code: its own line


def test_the_fix_of_a_configuration_names_it_first() -> None:
    """Other parts have the fix of their source alone."""
    fixes = [problem(ValueError("x"), part=part).fix for part in ("model", CONFIGURATION)]
    assert fixes[1] == f"correct it, or {fixes[0]}"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), TypeError("a bug of ours"), UserError([])])
def test_errors_that_pass(error: Exception) -> None:
    """A full disk, of which pipeline.core.errors makes the message; a bug keeps its traceback; a UserError is one."""
    with pytest.raises(type(error)) as found, reported(LOCAL, "model", "folder"):
        raise error
    assert found.value is error


def test_the_table_of_tensors_is_dropped_only_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    """Other messages pass, and after it the table does."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(caplog.handler)
    try:
        with without_report():
            for text in ("LOAD REPORT of x", "something else", "LOAD REPORT with CONVERSION errors"):
                logger.error(text)
        logger.error("LOAD REPORT after it")
    finally:
        logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == [
        "something else",
        "LOAD REPORT with CONVERSION errors",
        "LOAD REPORT after it",
    ]
