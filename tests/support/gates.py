"""Gates of stage verify for tests: those of conf/config.yaml with changes, so that a new gate changes no test."""

from dataclasses import fields
from functools import cache
from typing import Any

from pipeline.core.schema import CacheGates, CacheLimits, Gates, Quality
from pipeline.proof.results import QUALITY, Limits, limits
from tests.support.points import composed


@cache
def _verify() -> dict[str, Any]:
    section: dict[str, Any] = composed(["experiment=tiny"])["verify"]
    return section


def gates(**changes: float) -> Gates:
    """Return verify.gates of the tiny point with changes."""
    return Gates(**_verify()["gates"] | changes)


def cache_gates(dtype: str, **changes: float) -> CacheGates:
    """Return verify.cache_gates of the tiny point with changes in those of one type."""
    known = _verify()["cache_gates"]
    return CacheGates(
        **{name: CacheLimits(**each | (changes if name == dtype else {})) for name, each in known.items()}
    )


def quality(**changes: Any) -> Quality:
    """Return verify.quality of the tiny point with changes."""
    return Quality(**_verify()["quality"] | changes)


def held(**changes: float) -> Limits:
    """Return the limits of both sections; changes: keys of either."""
    own = {field.name for field in fields(Gates)} & changes.keys()
    others = changes.keys() - own
    return {
        **limits(gates(**{key: changes[key] for key in own})),
        **limits(quality(**{key: changes[key] for key in others}), QUALITY),
    }
