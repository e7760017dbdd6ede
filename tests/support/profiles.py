"""Profiles for tests, without their tuned sizes."""

from pipeline.core.profiles import Profiles, Sizes, StepSizes

Ends = tuple[int, int]


def profiles(**named: tuple[Ends, Ends]) -> Profiles:
    """Out of the smallest and largest batch and sequence of each: `profiles(decode=((1, 8), (1, 1)))`."""

    def sizes(ends: Ends) -> Sizes:
        return Sizes(ends[0], ends[0], ends[1])

    return Profiles({name: StepSizes(sizes(batch), sizes(sequence)) for name, (batch, sequence) in named.items()})
