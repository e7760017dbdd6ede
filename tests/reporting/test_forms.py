"""forms: numbers as people read them."""

import pytest

from pipeline.reporting import forms


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, forms.NOTHING), (0, "0"), (1, "1"), (0.00123, "0.00123"), (27.123, "27.1"), (1663.8, "1,664"),
     (8.6e-13, "8.6e-13"), (-4.2e-7, "-4.2e-7"), (123_456_789, "1.2e8")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    """Three digits; exponents of very small and very large ones."""
    assert forms.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0 %"), (1e-5, "< 0.1 %"), (0.012, "1.2 %"), (0.37, "37 %"), (1.0, "100 %"), (32.1, "3,210 %")],
)
def test_shares(value: float, text: str) -> None:
    """Per cent, of a gate too."""
    assert forms.share(value) == text
    assert forms.share(None) == forms.NOTHING


def test_changes() -> None:
    """With a sign."""
    assert [forms.change(value) for value in (0.00466, -0.0045, 0.0, -1e-7)] == [
        "+0.47 %",
        "-0.45 %",
        "0.00 %",
        "0.00 %",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0 s"), (12.34, "12.3 s"), (119.0, "119.0 s"), (125, "2 min 5 s"), (7380, "2 h 3 min")]
)
def test_times(value: float, text: str) -> None:
    """Seconds, then minutes, then hours."""
    assert forms.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(82, "82 B"), (2048, "2.0 KB"), (541_985_996, "516.9 MB"), (2**30 * 1.25, "1.25 GB")]
)
def test_sizes(value: float, text: str) -> None:
    """Units of 2^10, 2^20 and 2^30 bytes."""
    assert forms.size(value) == text


def test_megabytes() -> None:
    """One digit after the point below 100."""
    assert [forms.megabytes(value) for value in (0.62, 516.9, 1234, None)] == ["0.6", "517", "1,234", forms.NOTHING]
