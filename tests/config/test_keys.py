"""keys: every key is described, and how keys are gone through."""

import pytest

from pipeline.config.keys import KEYS, leaves, touches


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_described(name: str) -> None:
    """In one or more sentences, beside its type."""
    assert KEYS[name].meaning.endswith(".")
    assert KEYS[name].meaning[0].isupper()


def test_leaves_of_nested_mappings() -> None:
    """A list is a value, and so is an empty mapping, which has nothing inside."""
    nested = {"a": {"b": 1, "c": [2, 3]}, "d": {}}
    assert list(leaves(nested)) == [("a.b", 1), ("a.c", [2, 3]), ("d", {})]
    assert next(leaves(nested, "x")) == ("x.a.b", 1)


@pytest.mark.parametrize(
    ("key", "others", "touched"),
    [
        ("cache.size", {"cache.size"}, True),
        ("cache.size", {"cache"}, True),
        ("cache", {"cache.size"}, True),
        ("cache.size", {"cache.sizes", "axes"}, False),
        ("cache", set(), False),
    ],
)
def test_sections_touch_their_keys(key: str, others: set[str], touched: bool) -> None:
    """A section and a key in it, either way round; a name that only begins alike is another."""
    assert touches(key, others) == touched
