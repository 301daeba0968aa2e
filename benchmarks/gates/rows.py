"""The rows of the table of `python -m benchmarks regress`, and the statistics behind their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The chance that any row of a part (quality, speed) calls unchanged code worse. A part's rows share it.
FALSE_ALARM = 0.01


@dataclass(frozen=True)
class Row:
    """A comparison and its verdict; `reason` is a sentence where the verdict is a regression, else None."""

    what: str
    backend: str
    family: str
    baseline: str
    now: str
    bound: str
    verdict: str
    reason: str | None = None


COLUMNS = ("what", "backend", "family", "baseline", "now", "bound", "verdict")
LEFT = ("what", "backend", "family", "verdict")


def quantile(*, tests: int, degrees: int, sides: int) -> float:
    """The Student's t that any of `tests` unchanged comparisons exceeds with a probability of at most FALSE_ALARM (Bonferroni).

    `degrees` of freedom of the spread; `sides` is 2 where a change either way counts, 1 where only a rise does.
    """
    from scipy import stats  # the import takes half a second, which `python -m benchmarks compare` needn't wait for

    return float(stats.t.ppf(1 - FALSE_ALARM / (tests * sides), degrees))


def pooled(groups: list[list[float]]) -> tuple[float, int]:
    """(standard deviation within groups, its degrees of freedom): each group's mean is subtracted.

    Raises `ValueError` where no group has two values.
    """
    degrees = sum(len(values) - 1 for values in groups)
    if degrees < 1:
        raise ValueError("a spread needs a group of two values")
    squares = sum((value - sum(values) / len(values)) ** 2 for values in groups for value in values)
    return math.sqrt(squares / degrees), degrees
