"""Names of nodes: `model.layers.3.self_attn.Attention`, so that an error of a runtime points at a module."""

from collections import Counter
from collections.abc import Iterable, Iterator

ROOT = "decoder"  # what the wrapper itself computes, and the model outside of its submodules


def module_name(scope: str) -> str:
    """A module's name in the original model, from its name in the wrapper (pipeline.decoder), whose `model` it is."""
    return scope.removeprefix("model.") if scope.startswith("model.") else ROOT


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Each name as it is the first time, then with _1, _2 and so on."""
    seen: Counter[str] = Counter()
    for name in names:
        yield f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
