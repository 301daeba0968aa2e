"""Parity: the small ladder, for each pair of backends apart, so that a broken rung shows which backend is the odd one."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.gates.rows import Row
from benchmarks.parity import comparison as parity
from benchmarks.parity import ladder
from benchmarks.parity.comparison import BrokenRungError

Rungs = list[dict[str, Any]]  # the worst deviation of each precision, rung and pair
Broken = dict[tuple[str, ...], str]  # pair → the sentence of its first broken rung


def measure(names: list[str]) -> tuple[Rungs, Broken]:
    """(the rungs that hold, the pairs that break). A backend whose process crashes breaks all pairs."""
    holds: list[parity.Worst] = []
    broken: Broken = {}
    images = ladder.small_images()
    try:
        for scenario, results in parity.climbed(names, ladder.small(), images=images, threads=1):
            for pair in itertools.combinations(results, 2):
                try:
                    holds += parity.compare(scenario, {backend: results[backend] for backend in pair}, scenario.rungs)
                except BrokenRungError as error:
                    broken.setdefault(pair, str(error))
    except BrokenRungError as error:  # a process crashed
        return [], {tuple(names): str(error)}
    return parity.worst_rows(holds), broken


def judge(base: Rungs, now: Rungs, broken: Broken) -> list[Row]:
    """A row for each broken pair; for each other pair and precision the row of the rung that is nearest to its bound."""
    rows = [Row("parity", " – ".join(pair), "both", "holds", "-", "-", "broken", reason) for pair, reason in broken.items()]
    before = {(rung["dtype"], rung["rung"], tuple(rung["pair"])): parity.figure(rung["deviation"]) for rung in base}
    pairs: dict[tuple[str, tuple[str, ...]], Rungs] = {}
    for rung in now:
        pairs.setdefault((rung["dtype"], tuple(rung["pair"])), []).append(rung)
    for (dtype, pair), rungs in pairs.items():
        if pair not in broken:
            top = max(rungs, key=lambda rung: rung["deviation"] / (rung["allowed"] or 1))
            figures = before.get((dtype, top["rung"], pair), "-"), parity.figure(top["deviation"])
            bound = f"≤ {parity.figure(top['allowed'])}"
            rows.append(Row(f"parity, {dtype}: {top['rung']}", " – ".join(pair), "both", *figures, bound, "holds"))
    return rows
