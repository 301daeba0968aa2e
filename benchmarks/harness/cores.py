"""The processor's cores: how many a process may use, and their latency: the ns of a byte's round trip between two cores.

A step's threads hand arrays to one another through the cache that their cores share. A host may move a virtual machine from
cores that share a cache to cores that don't. The latency then grows several times and a step takes longer (docs/timing.md),
though one core alone is as fast as before. So every measurement takes the latency at its start and at its end.
"""

from __future__ import annotations

import contextlib
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

WITHIN = "VAEBENCH_CORES_WITHIN"  # environment variable, ns: the bound of the latency that measurements wait for
PATIENCE_S, PAUSE_S = 300.0, 0.5  # the longest wait, and the pause before the latency is measured again
TRIES = 4  # how often a measurement is made, while the latency at its end is above the bound
EXCHANGES = 3_000
LIMIT_S = 5  # after so long a process of `exchange` is ended; all exchanges take a few ms


# The cores that this process may use, asked before a framework is imported: OpenMP may tie the main thread to one of them.
# macOS has no such list.
ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
CGROUPS = Path("/sys/fs/cgroup")


def count() -> int:
    """The number of cores that this process may use."""
    return len(ALLOWED) if ALLOWED else os.cpu_count() or 1


def quota() -> float | None:
    """The seconds of processor time a second that this process's control groups allow; None without a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers  # version 1 has a folder a controller, version 2 has one for all
        own = root / group.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                limits += _limit(folder)
    return min(limits, default=None)


def _limit(folder: Path) -> list[float]:
    """A control group's own limit, as in `quota`; [] where it has none."""
    with contextlib.suppress(OSError):  # another version's file, or no file at all
        allowed, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return [] if allowed == "max" else [int(allowed) / int(period)]
    with contextlib.suppress(OSError):
        allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return [] if int(allowed) < 0 else [int(allowed) / int(period)]
    return []


def round_trip() -> RoundTrip:
    """The latency between this process's first and last core: the median of EXCHANGES.

    Python's own reading and writing is part of the latency, so only values of this function can be compared.
    """
    if not ALLOWED or count() < 2:
        return None
    # The fork is in a fresh process: a process whose framework has started threads must not fork.
    command = [
        sys.executable,
        "-c",
        f"from benchmarks.harness import cores; print(cores.exchange({EXCHANGES}, {ALLOWED[0]}, {ALLOWED[-1]}))",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def exchange(times: int, core: int, other: int) -> float:
    """The median ns of a byte's way to a process on the other core and back; this process becomes tied to the first."""
    byte, spans = mmap.mmap(-1, 1), []
    partner = os.fork()
    signal.alarm(LIMIT_S)
    os.sched_setaffinity(0, {core if partner else other})
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
    """The bound that the variable WITHIN sets, ns; without it infinity. Raises `UserError` unless it is a number above 0."""
    text = os.environ.get(WITHIN) or "inf"
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not bound > 0:
        raise UserError(f"{WITHIN} is '{text}'; it must be a number of ns above 0, as the tables' notes have them.")
    return bound


def gathered() -> RoundTrip:
    """Wait, PATIENCE_S at most, until the latency is within the bound; return the latency."""
    bound, until, told = within(), time.monotonic() + PATIENCE_S, False
    while (found := round_trip()) is not None and found > bound and time.monotonic() < until:
        if not told:
            print(f"Two cores are {found:.0f} ns apart: waiting for {bound:.0f}, {PATIENCE_S:.0f} s at most.", file=sys.stderr)
        told = True
        time.sleep(PAUSE_S)
    return found


def together(work: Callable[[], Result]) -> tuple[Result, list[RoundTrip]]:
    """(the result of `work`, the latency at its start and end); up to TRIES times, while that at its end is above the bound."""
    for _ in range(TRIES):
        before, result, after = gathered(), work(), round_trip()
        if after is None or after <= within():
            break
    return result, [before, after]


def said(trips: list[RoundTrip]) -> str:
    """The range of the latencies, for the line under a table."""
    known = [trip for trip in trips if trip is not None]
    if not known:
        return "how far apart the cores were isn't known"
    return f"a byte's round trip between two cores {min(known):.0f} to {max(known):.0f} ns"
