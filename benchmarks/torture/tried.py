"""The result of a scenario: how many rounds, their outcomes, and the faults among them.

A scenario is a file of this folder that says:

    TITLE                                 what is tried, as the cell of a table
    AT_LEAST                              the rounds of `make torture`
    rounds(count, seed, folder, tell)     → Tried; `folder` is empty and the scenario's own; `tell(n)`: n rounds more are done

Every random choice is a function of the seed and the round's number: a fault's round can be run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Tell = Callable[[int], None]


@dataclass
class Tried:
    rounds: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)  # an outcome in words → how often
    faults: list[str] = field(default_factory=list)  # one line each, with the round's number

    def add(self, outcome: str, *, faults: list[str] | None = None) -> None:
        """One round more, with its outcome and its faults."""
        for fault in faults or ():
            self.faults.append(f"round {self.rounds}: {fault}")
        self.rounds += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def choices(seed: int, number: int) -> np.random.Generator:
    """The random choices of a round."""
    return np.random.default_rng((seed, number))
