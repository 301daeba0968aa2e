"""How far two cores are from one another, in ns: what a byte takes from one to the other and back.

Between operations a step's threads hand arrays to one another, through the cache that their cores share. A host may move a
virtual machine's cores from two that share one to two that don't: the way grows several times and a step takes a fifth to
nearly a half longer, while a core alone is as fast as before. So what is timed has this at both ends.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.errors import UserError

Result = TypeVar("Result")
RoundTrip = float | None  # ns; None where there is one core, or the system can't tie a process to one

WITHIN = "VAEBENCH_CORES_WITHIN"  # ns: what is timed waits for cores that are so near
PATIENCE_S, PAUSE_S = 300.0, 0.5  # the longest wait, and between two looks
TRIES = 4  # of what ends with the cores farther apart than that
EXCHANGES = 3_000
LIMIT_S = 5  # ends a partner that waits in vain; all of them take a few ms


def round_trip() -> RoundTrip:
    """The median of EXCHANGES between the first and the last core of this process.

    Python's own reading and writing is in it: it can be compared with itself alone.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    # A fresh process forks: one whose framework has started threads must not.
    command = [sys.executable, "-c", f"from benchmarks.harness import cores; print(cores.exchange({EXCHANGES}))"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def exchange(times: int) -> float:
    """Median ns of a byte's way to a process on another core and back."""
    cores, byte, spans = sorted(os.sched_getaffinity(0)), mmap.mmap(-1, 1), []
    partner = os.fork()
    signal.alarm(LIMIT_S)
    os.sched_setaffinity(0, {cores[0] if partner else cores[-1]})
    for i in range(times):
        there, back = 2 * (i % 100) + 1, 2 * (i % 100) + 2
        if partner:
            start = time.perf_counter_ns()
            byte[0] = there
            while byte[0] != back:
                pass
            spans.append(time.perf_counter_ns() - start)
        else:
            while byte[0] != there:
                pass
            byte[0] = back
    if not partner:
        os._exit(0)
    os.waitpid(partner, 0)
    return statistics.median(spans)


def within() -> float:
    """The bound that WITHIN sets, else none. Raises `UserError` where it isn't a number above 0."""
    text = os.environ.get(WITHIN) or "inf"
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not bound > 0:
        raise UserError(f"{WITHIN} is '{text}'; it must be a number of ns above 0, as the tables' notes have them.")
    return bound


def gathered() -> RoundTrip:
    """`round_trip()`, once it is within the bound, or after PATIENCE_S."""
    bound, until, told = within(), time.monotonic() + PATIENCE_S, False
    while (found := round_trip()) is not None and found > bound and time.monotonic() < until:
        if not told:
            print(f"Two cores are {found:.0f} ns apart: waiting for {bound:.0f}, {PATIENCE_S:.0f} s at most.", file=sys.stderr)
        told = True
        time.sleep(PAUSE_S)
    return found


def together(work: Callable[[], Result]) -> tuple[Result, list[RoundTrip]]:
    """What `work` returns, and the round trip at its start and end; done again where the cores ended beyond the bound."""
    for _ in range(TRIES):
        before, result, after = gathered(), work(), round_trip()
        if after is None or after <= within():
            break
    return result, [before, after]


def said(trips: list[RoundTrip]) -> str:
    """For the line under a table."""
    known = [trip for trip in trips if trip is not None]
    if not known:
        return "how far apart the cores were isn't known"
    return f"a byte's round trip between two cores {min(known):.0f} to {max(known):.0f} ns"
