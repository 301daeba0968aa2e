"""Speed: the training step at `standard`'s sizes as ratios within one run, against the ratios of the baseline of this machine.

A round is three fresh processes, one a backend, which take turns: A B C, B C A, … A turn is one call of training, then the same
steps' floor, their matrix products alone. A round's figure is the median over its turns of a ratio of two times of one turn, so
that what slows the machine down for longer than a turn cancels; processes differ too, and rounds are the sample.

A backend's step is slower than in the baseline where its ratio has risen beyond its bound

- to *every* floor of the round, its own among them: against its own alone, a floor that became faster would look like a step
  that became slower; or
- to *every* other backend's step: against one of them, that one may have become faster. So a backend whose step and floor
  became slower together is found.

The bound is of the difference of two medians of rounds, for a chance of FALSE_ALARM that any row is wrong about unchanged code:

    log bound = t · √(π/2) · s · √(1/rounds of the baseline + 1/rounds now),

s being the standard deviation of a log ratio between the rounds of the baseline, pooled over its backends; and never below
LEAST, what a change must be to matter. Since a day can differ from another by more than its rounds do, a suspicion is put to as
many fresh rounds again, and only if they suspect the same is a backend slower.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gates.compare import BOUNDS
from benchmarks.gates.rows import Row, pooled, quantile
from benchmarks.harness import cases, cores, environment
from benchmarks.harness.cases import Bench
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.turns import Side, What
from benchmarks.outputs.cells import FAMILIES

BATCH, ROUNDS, TURNS = 128, 5, 5
LEAST = BOUNDS["train"]

Seconds = dict[str, list[float]]  # "step", "floor" → by turn
Round = dict[str, dict[str, Seconds]]  # family → backend → its turns


def settings() -> dict[str, Any]:
    """What a time depends on beside backend and family, as JSON has it."""
    config = STANDARD.as_dict()
    return json.loads(json.dumps({"config": config, "batch": BATCH, "rows_a_call": cases.ROWS_A_CALL, "turns": TURNS}))


def machine() -> str:
    """This kind of machine as a file's name: the processor, its widest vectors, and the cores that may be used."""
    described = environment.describe()
    processor = f"{described['machine']['cpu']} {described['machine']['vectors'] or ''}"
    name = re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")
    return f"speed_{name}_{described['threads']['cores']}-cores"


# --- measuring ---


def worker(arguments: list[str]) -> int:
    """One backend of a round. Stdin: a line of JSON; then a line a turn. Stdout: "ready"; then the seconds of each turn."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a framework prints is no answer
    what = What(**json.loads(sys.stdin.readline()))
    case = Bench(what.backend, what.family, device=what.device).case(what.kind, what.batch)
    case.seconds()  # compiles
    case.seconds()
    case.floor_seconds()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps([case.seconds(), case.floor_seconds()]), file=answers, flush=True)
    return 0


def turns(family: Any, backends: list[str]) -> dict[str, Seconds]:
    """A family's part of a round: fresh processes, TURNS turns each. Raises `UserError` where one ends."""
    found: dict[str, Seconds] = {backend: {"step": [], "floor": []} for backend in backends}
    with ExitStack() as stack:
        sides = {}
        for backend in backends:
            what = What("train", family, BATCH, backend)
            sides[backend] = stack.enter_context(Side(ROOT, what, command="regress-speed-worker"))
            sides[backend].answer()  # one sets up at a time
        for turn in range(TURNS):
            first = turn % len(backends)
            for backend in backends[first:] + backends[:first]:
                for kind, seconds in zip(("step", "floor"), json.loads(sides[backend].ask()), strict=True):
                    found[backend][kind].append(float(f"{seconds:.4g}"))
    return found


def measure(backends: list[str], *, rounds: int = ROUNDS) -> tuple[list[Round], list[cores.RoundTrip]]:
    """The rounds; and how far apart the cores were at both ends of each family's turns, see `cores.together`."""
    found, trips = [], []
    for i in range(rounds):
        one: Round = {}
        for family in FAMILIES:
            one[family], ends = cores.together(partial(turns, family, backends))
            trips += ends
        found.append(one)
        print(f"speed: round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    return found, trips


# --- judging ---


@dataclass(frozen=True)
class Rise:
    """A backend's step over another time, before and now; and now/before beyond which it is slower."""

    over: str
    before: float
    now: float
    bound: float

    @property
    def within(self) -> bool:
        return self.now <= self.before * self.bound


def logs(rounds: list[Round], family: str, backend: str, over: tuple[str, str]) -> list[float]:
    """log(the backend's step / `over`, which is (backend, "step" or "floor")) of each round."""
    other, kind = over
    return [
        statistics.median(
            math.log(step / least)
            for step, least in zip(found[family][backend]["step"], found[family][other][kind], strict=True)
        )
        for found in rounds
    ]


def ratio(rounds: list[Round], family: str, backend: str, over: tuple[str, str]) -> float:
    """The median over rounds of what `logs` gives, no longer as a logarithm."""
    return math.exp(statistics.median(logs(rounds, family, backend, over)))


def bound(base: list[Round], family: str, kind: str, *, now: int) -> float:
    """now/before beyond which a ratio to `kind` has risen, for so many rounds `now`."""
    backends = list(base[0][family])
    pairs = [(a, b) for a in backends for b in backends if (a == b) == (kind == "floor")]
    s, degrees = pooled([logs(base, family, a, (b, kind)) for a, b in pairs])
    if kind == "step":  # of the ratios of each two backends, one less than there are backends say all the others
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
                others = [other for other in backends if other != backend]
                found = []
                for other in [backend, *others] if kind == "floor" else others:
                    before, after = (ratio(side, family, backend, (other, kind)) for side in (base, now))
                    name = "floor" if other == backend else f"{other}'s {kind}"
                    found.append(Rise(name, before, after, allowed))
                if found:
                    rows.append(row(backend, family, found))
    return rows


def row(backend: str, family: str, found: list[Rise]) -> Row:
    """Shown is the first that is within its bound; where none is, the backend is slower, and shown is the least."""
    shown = next((rise for rise in found if rise.within), min(found, key=lambda rise: rise.now / rise.before))
    what = f"step / {shown.over}"
    reason = None
    if not shown.within:
        reason = (
            f"{backend} {family}: {what} is {shown.now:.2f}, the baseline's {shown.before:.2f}: "
            f"{shown.now / shown.before - 1:.0%} slower, where {shown.bound - 1:.0%} is allowed."
        )
    cells = (f"{shown.before:.2f}", f"{shown.now:.2f}", f"≤ {shown.before * shown.bound:.2f}")
    return Row(what, backend, family, *cells, "slower" if reason else "within", reason)


def twice(base: list[Round], now: list[Round], *, again: Any) -> list[Row]:
    """`judge`; where that suspects a backend, with as many rounds `again()`: slower is what both suspect."""
    first = judge(base, now)
    if not any(found.reason for found in first):
        return first
    # A row is known by backend, family and kind; the ratio that it shows may be another the second time.
    second = judge(base, again())
    return [b if a.reason else a for a, b in zip(first, second, strict=True)]
