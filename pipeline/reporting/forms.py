"""Numbers as the page writes them."""

SMALL, LARGE = 1e-3, 1e5  # between these a number is written without an exponent
NOTHING = "\N{EN DASH}"
MINUTE, HOUR = 60.0, 3600.0
UNITS = (("GB", 2**30), ("MB", 2**20), ("KB", 2**10))


def number(value: float | None) -> str:
    """Three digits, and an exponent for very small and very large ones."""
    if value is None:
        return NOTHING
    if value == 0 or SMALL <= abs(value) < LARGE:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def share(value: float | None) -> str:
    """A part of a whole, 0 or more, in per cent."""
    if value is None:
        return NOTHING
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:,.1f} %" if percent < 10 else f"{percent:,.0f} %"


def change(value: float | None) -> str:
    """A relative change in per cent, with its sign."""
    if value is None:
        return NOTHING
    text = f"{100 * value:+.2f} %"
    return text if any(digit in text for digit in "123456789") else text[1:]


def seconds(value: float | None) -> str:
    """A time."""
    if value is None:
        return NOTHING
    if value >= HOUR:
        return f"{value // HOUR:.0f} h {value % HOUR / MINUTE:.0f} min"
    if value >= 2 * MINUTE:
        return f"{value // MINUTE:.0f} min {value % MINUTE:.0f} s"
    return f"{value:.1f} s"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NOTHING
    for unit, bytes_ in UNITS:
        if value >= bytes_:
            return f"{value / bytes_:,.2f} {unit}" if unit == "GB" else f"{value / bytes_:,.1f} {unit}"
    return f"{value:.0f} B"


def megabytes(value: float | None) -> str:
    """MB of 2^20 bytes."""
    return NOTHING if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
