"""Which point to take: the fastest that is as good as the original, the Pareto front, and why."""

from collections import Counter
from collections.abc import Sequence

from pipeline.reporting import forms
from pipeline.reporting.records import VERIFIED, Comparison, Point

ALLOWED = 0.01  # relative difference of perplexity that counts as none
SAME_SPEED = 0.03  # speeds that differ by less are equal: a measurement that is repeated differs by as much
SAME_QUALITY = 1e-4  # perplexities are compared in steps of this, as a share of the original's


def compare(points: Sequence[Point]) -> list[Comparison]:
    """A comparison for each model and way of measuring, the one with most points first."""
    alike: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        if point.model:
            alike.setdefault((point.model, *point.bench), []).append(point)
    ordered = sorted(alike.items(), key=lambda each: -len(each[1]))
    return [_comparison(*key, group) for key, group in ordered]


def _comparison(model: str, batch: int, prompt: int, points: Sequence[Point]) -> Comparison:
    measured = sorted((point for point in points if point.speed and point.increase is not None), key=_by_speed)
    sound = [point for point in measured if point.state == VERIFIED]
    chosen, sentence = recommend(sound, points)
    names = tuple(point.name for point in measured)
    return Comparison(model, batch, prompt, names, front(sound), chosen.name if chosen else None, sentence)


def loss(point: Point) -> float:
    """How far perplexity is from the original's, relative to it, in steps of SAME_QUALITY. One that rounding has made
    lower is off as well: that is chance, and another text would show it."""
    return abs(round((point.increase or 0.0) / SAME_QUALITY) * SAME_QUALITY)


def speed(point: Point) -> float:
    """New tokens per second."""
    return point.speed.decode_tok_s if point.speed else 0.0


def front(points: Sequence[Point]) -> tuple[str, ...]:
    """The points that no other one beats: each faster one has a larger loss. The fastest first; of equal points all."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (-speed(point), loss(point), point.name)):
        if not kept or loss(point) < loss(kept[-1]) or (speed(point), loss(point)) == (speed(kept[-1]), loss(kept[-1])):
            kept.append(point)
    return tuple(point.name for point in kept)


def recommend(sound: Sequence[Point], all_points: Sequence[Point]) -> tuple[Point | None, str]:
    """The point to take, and a sentence that says so with its numbers.

    Of the points within ALLOWED the fastest; of those as fast as it, within SAME_SPEED, the one with the smallest loss,
    then memory, then name. sound: the verified points with speed and perplexity; all_points: these and all others.
    """
    if not sound:
        states = Counter(point.state for point in all_points)
        what = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        unmeasured = " with a speed and a perplexity" if states[VERIFIED] else ""
        return None, f"There is nothing to recommend: no point is verified{unmeasured} ({what})."
    within = [point for point in sound if loss(point) <= ALLOWED]
    if not within:
        best = min(sound, key=lambda point: (loss(point), -speed(point), point.name))
        return None, (
            f"No verified point keeps its perplexity within {100 * ALLOWED:g} % of the original: "
            f"{best.name} comes closest, {_quality(best)}."
        )
    fastest = max(map(speed, within))
    equal = [point for point in within if speed(point) >= (1 - SAME_SPEED) * fastest]
    chosen = min(equal, key=lambda point: (loss(point), _memory(point), -speed(point), point.name))
    return chosen, _sentence(chosen, within, sound, equal)


def _sentence(chosen: Point, within: Sequence[Point], sound: Sequence[Point], equal: Sequence[Point]) -> str:
    """Which point, with its numbers, and why. within, equal: as in `recommend`."""
    what = f"{chosen.kind}, cache of {chosen.settings['cache.size']:,} slots"
    top1 = chosen.quality.get("top1")
    agrees = "" if top1 is None else f", the original's first choice at {forms.share(top1)} of tokens"
    take = f"Take {chosen.name} ({what}): {speed(chosen):,.1f} tokens/s, perplexity {_quality(chosen)}{agrees}."
    near = f"within {100 * ALLOWED:g} % of the original"
    if len(sound) == 1:
        return f"{take} No other verified point was measured like it."
    if len(within) == 1:
        reason = f"It is the only one of {len(sound)} verified points {near}"
    elif len(equal) == 1:
        reason = f"It is the fastest of the {len(within)} verified points {near}"
    else:
        losses = sorted(map(loss, equal))
        tie = "the smallest loss" if losses[0] < losses[1] else "the least memory of those with the smallest loss"
        reason = (
            f"Of the {len(within)} verified points {near}, {len(equal)} are equally fast (to {100 * SAME_SPEED:g} %), "
            f"and it has {tie}"
        )
    closest = min(sound, key=lambda point: (loss(point), -speed(point), point.name))
    if loss(closest) < loss(chosen) and speed(closest):
        reason += f"; it is {speed(chosen) / speed(closest):.2f} times as fast as {closest.name}, the closest to it"
    return f"{take} {reason}."


def _quality(point: Point) -> str:
    own, original = point.quality.get("perplexity"), point.quality.get("perplexity_original")
    numbers = f" ({own:,.2f}, the original has {original:,.2f})" if own is not None and original is not None else ""
    return f"{forms.change(point.increase or 0.0)}{numbers}"


def _memory(point: Point) -> float:
    return point.speed.peak_mb if point.speed else 0.0


def _by_speed(point: Point) -> tuple[float, str]:
    return -speed(point), point.name
