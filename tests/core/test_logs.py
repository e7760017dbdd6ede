"""Messages of other libraries that are kept back."""

import logging

import pytest

from pipeline.core.logs import errors_only


def test_errors_only(caplog: pytest.LogCaptureFixture) -> None:
    """A warning within is dropped, an error is not; afterwards the logger is as before."""
    logger = logging.getLogger("theirs")
    logger.setLevel(logging.INFO)
    with errors_only("theirs"):
        logger.warning("a warning")
        logger.error("an error")
    logger.warning("afterwards")
    assert [record.message for record in caplog.records] == ["an error", "afterwards"]
    assert logger.level == logging.INFO
