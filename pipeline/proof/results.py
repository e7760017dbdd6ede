"""What verify finds: the figures and failures of one artifact in one case, and the limits that figures are held to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.core.schema import Gates
from pipeline.proof.distance import Worst

GATES = "verify.gates"
NOT_FINITE = "not finite"  # what every failure by a NaN or an infinity says


def for_json(figure: float) -> float | str:
    """The figure, or its name as text when it is not finite: JSON has no NaN."""
    return figure if np.isfinite(figure) else str(figure)


@dataclass(frozen=True)
class Limit:
    """The largest value of a figure that passes (the least, for a share), and the config key that sets it."""

    value: float
    key: str


Limits = Mapping[str, Limit]  # figure -> its limit


def limits(gates: Gates, section: str = GATES) -> Limits:
    """The gates of a config section."""
    return {name: Limit(gate, f"{section}.{name}") for name, gate in asdict(gates).items()}


@dataclass
class Result:
    """One artifact in one case. `failures` name the tensor; the case passed when there are none.

    not_run: why the case was left out; empty when it ran. traceback: of what was raised, when the case did not end.
    not_finite: the first tensor that held a NaN or an infinity. widened: gates that were missed by rows whose own
    sensitivity allows that, and what it allows.
    """

    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    not_run: str = ""
    traceback: str = ""
    not_finite: str = ""
    widened: dict[str, float] = field(default_factory=dict)

    def gate(self, name: str, worst: Worst, limit: Limit) -> None:
        """Record a figure that must not exceed its limit; NaN exceeds all."""
        self.figures[name] = worst.value
        if not np.isfinite(worst.value):
            self.nonfinite(worst.where)
        elif not worst.value <= limit.value:
            self.failures.append(f"{name} is {worst.value:.3g} in {worst.where}, {limit.key} is {limit.value:g}")

    def share(self, name: str, least: float, limit: Limit, where: str) -> None:
        """The same for a figure that must not be below its limit."""
        self.figures[name] = least
        if not least >= limit.value:
            self.failures.append(f"{name} is {least:.4f}, {limit.key} is {limit.value:g}; {where}")

    def nonfinite(self, where: str) -> None:
        """Record a tensor that holds a NaN or an infinity."""
        self.not_finite = self.not_finite or where
        if (failure := f"{where} is {NOT_FINITE}") not in self.failures:
            self.failures.append(failure)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        if self.not_run:
            return {"not_run": self.not_run}
        figures = {name: for_json(value) for name, value in self.figures.items()}
        more = {"widened": {name: for_json(value) for name, value in self.widened.items()}} if self.widened else {}
        raised = {"traceback": self.traceback.splitlines()} if self.traceback else {}
        return {"passed": not self.failures, **figures, "failures": self.failures, **more, **raised}
