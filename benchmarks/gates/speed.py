"""Speed: the training step at `standard`'s sizes as ratios within one run, against the ratios of the baseline of this machine.

A round is three fresh processes, one a backend, which take turns: A B C, B C A, … A turn is one call of training, then the same
steps' floor, their matrix products alone. A round's figure is the median over its turns of a ratio of two times of one turn: a
machine that is slow for longer than a turn slows both. Processes differ too, so the rounds are the sample.

A backend's step is slower than in the baseline where its ratio has risen beyond its bound

- over *every* floor of the round, its own among them: over its own floor alone, a faster floor would pass for a slower step; or
- over *every* other backend's step, which finds a backend whose step and floor became slower together: over one other step
  alone, that step may have become faster.

The bound is of the difference of two medians of rounds, for a chance of FALSE_ALARM that any row is wrong about unchanged code:

    log bound = t · √(π/2) · s · √(1/rounds of the baseline + 1/rounds now),

s being the standard deviation of a log ratio between the rounds of the baseline, pooled over its backends. The bound is never
below LEAST, the smallest change that matters. Days can differ by more than the rounds of a day do, so a suspicion is put to as
many fresh rounds. Only if they suspect the same is a backend slower.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gates.compare import BOUNDS
from benchmarks.gates.rows import Row, pooled, quantile
from benchmarks.harness import calls, cores, environment
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.turns import What, seconds_by_turns
from common.config import FAMILIES

BATCH, ROUNDS, TURNS = 128, 5, 5
LEAST = BOUNDS["train"]

Seconds = dict[str, list[float]]  # "step", "floor" → by turn
Round = dict[str, dict[str, Seconds]]  # family → backend → its turns


def settings() -> dict[str, Any]:
    """The settings that a time depends on beside backend and family, as JSON has them."""
    config = STANDARD.as_dict()
    return json.loads(json.dumps({"config": config, "batch": BATCH, "rows_a_call": calls.ROWS_A_CALL, "turns": TURNS}))


def machine() -> str:
    """This kind of machine as a file's name: the processor, its widest vectors, and the cores that may be used."""
    described = environment.describe()
    processor = f"{described['machine']['cpu']} {described['machine']['vectors'] or ''}"
    name = re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")
    return f"speed_{name}_{described['threads']['cores']}-cores"


# --- measuring ---


def turns(family: Any, backends: list[str]) -> dict[str, Seconds]:
    """A family's part of a round: fresh processes, TURNS turns each. Raises `UserError` where one ends."""
    contenders = {backend: (ROOT, What("train", family, BATCH, backend)) for backend in backends}
    by_turn = seconds_by_turns(list(contenders.values()), turns=TURNS, floor_too=True)
    return {
        backend: {
            column: [float(f"{turn[contender][kind]:.4g}") for turn in by_turn]
            for column, kind in (("step", "train"), ("floor", "products"))
        }
        for backend, contender in contenders.items()
    }


def measure(backends: list[str], *, rounds: int = ROUNDS) -> tuple[list[Round], list[cores.RoundTrip]]:
    """(the rounds, the latency between cores at both ends of each family's turns, see `cores.together`)."""
    done, trips = [], []
    for i in range(rounds):
        one: Round = {}
        for family in FAMILIES:
            one[family], ends = cores.together(partial(turns, family, backends))
            trips += ends
        done.append(one)
        print(f"speed: round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    return done, trips


# --- judging ---


@dataclass(frozen=True)
class Rise:
    """A backend's step over another time, `over`, before and now."""

    over: str
    before: float
    now: float

    @property
    def factor(self) -> float:
        return self.now / self.before


def logs(rounds: list[Round], family: str, backend: str, over: tuple[str, str]) -> list[float]:
    """log(the backend's step / `over`) of each round, median over its turns; `over` is (backend, "step" or "floor")."""
    other, kind = over
    return [
        statistics.median(
            math.log(step / least) for step, least in zip(one[family][backend]["step"], one[family][other][kind], strict=True)
        )
        for one in rounds
    ]


def ratio(rounds: list[Round], family: str, backend: str, over: tuple[str, str]) -> float:
    """The backend's step / `over`, median over rounds."""
    return math.exp(statistics.median(logs(rounds, family, backend, over)))


def bound(base: list[Round], family: str, kind: str, *, now: int) -> float:
    """The now/before above which a ratio to `kind` has risen, for `now` rounds now."""
    backends = list(base[0][family])
    pairs = [(a, b) for a in backends for b in backends if (a == b) == (kind == "floor")]
    s, degrees = pooled([logs(base, family, a, (b, kind)) for a, b in pairs])
    if kind == "step":  # of n backends, n − 1 ratios determine all others
        degrees = (len(backends) - 1) * (len(base) - 1)
    t = quantile(tests=2 * sum(map(len, base[0].values())), degrees=degrees, sides=1)
    return max(LEAST, math.exp(t * math.sqrt(math.pi / 2) * s * math.sqrt(1 / len(base) + 1 / now)))


def judge(base: list[Round], now: list[Round]) -> list[Row]:
    """Two rows a family and backend that both have: over the floors, and over the other backends' steps."""
    rows = []
    for family in base[0]:
        backends = [backend for backend in base[0][family] if backend in now[0][family]]
        for kind in ("floor", "step"):
            allowed = bound(base, family, kind, now=len(now))
            for backend in backends:
                rises = []
                for other in sorted(backends, key=lambda other: other != backend):  # the backend itself is the first
                    if other != backend or kind == "floor":
                        before, after = (ratio(side, family, backend, (other, kind)) for side in (base, now))
                        rises.append(Rise("floor" if other == backend else f"{other}'s {kind}", before, after))
                if rises:
                    rows.append(row(backend, family, rises, allowed))
    return rows


def row(backend: str, family: str, rises: list[Rise], allowed: float) -> Row:
    """Shows the first ratio within its bound; where there is none, the backend is slower, and the row shows the least rise."""
    shown = next((rise for rise in rises if rise.factor <= allowed), min(rises, key=lambda rise: rise.factor))
    what, reason = f"step / {shown.over}", None
    if shown.factor > allowed:
        reason = (
            f"{backend} {family}: {what} is {shown.now:.2f}, the baseline's {shown.before:.2f}: "
            f"{shown.factor - 1:.0%} slower, where {allowed - 1:.0%} is allowed."
        )
    cells = (f"{shown.before:.2f}", f"{shown.now:.2f}", f"≤ {shown.before * allowed:.2f}")
    return Row(what, backend, family, *cells, "slower" if reason else "within", reason)


def twice(base: list[Round], now: list[Round], *, again: Any) -> list[Row]:
    """As `judge`. Where that suspects a backend, the rounds of `again()` are judged too: slower is what both suspect."""
    first = judge(base, now)
    if not any(row.reason for row in first):
        return first
    # A row is known by backend, family and kind; the ratio that it shows may be another the second time.
    second = judge(base, again())
    return [b if a.reason else a for a, b in zip(first, second, strict=True)]
