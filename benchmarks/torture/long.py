"""Long trainings and a long sweep: a process's memory, open files and threads don't grow."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import records
from benchmarks.torture.running import Ended, Started, run
from benchmarks.torture.tried import Tell, Tried
from common.config import FAMILIES
from common.protocol import BACKENDS

TITLE = "200,000 steps of the small model in each backend, and 100 models in one sweep: memory, open files and threads stay"
AT_LEAST = 100
STEPS = 2000  # a round, of each backend; and one model of the sweep
MIB = 2**20
# What memory may grow by from the third tenth of the time to the ninth, beside noise: thrice the standard deviation of its
# change from one sample to the next. A history of 200,000 steps has 2,000 chunks, and a sweep's table 100 records.
GROWTH = 16 * MIB
LONGEST = 24 * 3600.0  # seconds after which a training has hung


@dataclass(frozen=True)
class Sample:
    memory: int  # resident bytes
    files: int
    threads: int


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    """`count` × STEPS steps in each backend, then `count` models in one sweep."""
    tried = Tried(rounds=count)
    told = 0

    def part(number: int) -> None:
        nonlocal told
        told, before = count * number // (len(BACKENDS) + 1), told
        tell(told - before)

    for number, backend in enumerate(BACKENDS, 1):
        steps = ("--steps", str(count * STEPS), "--chunk", "100", "--validation-interval", "1000", "--seed", str(seed))
        started = Started(*run(backend, FAMILIES[0], folder / backend, *steps))
        samples, ended = watched(started, functools.partial(training, folder / backend))
        judge(tried, f"{backend}, {count * STEPS:,} steps", samples, ended, folder / backend, models=1)
        part(number)
    seeds = ("--steps", "20", "--seed", *(str(seed + i) for i in range(count)))
    started = Started(*run(BACKENDS[0], FAMILIES[0], folder / "sweep", *seeds))
    samples, ended = watched(started, lambda started: psutil.Process(started.process.pid))
    judge(tried, f"the sweep of {count} models", samples, ended, folder / "sweep", models=count)
    part(len(BACKENDS) + 1)
    return tried


def training(folder: Path, started: Started) -> psutil.Process | None:
    """The run's process, once it has saved a checkpoint in the folder: it has imported and compiled the training."""
    return next(iter(started.workers()), None) if any(folder.glob("[!.]*.h5")) else None


def watched(started: Started, whom: Callable[[Started], psutil.Process | None]) -> tuple[list[Sample], Ended]:
    """Samples of the process, several a second, until the command ends."""
    samples: list[Sample] = []
    process: psutil.Process | None = None

    def sample() -> bool:
        nonlocal process
        with contextlib.suppress(psutil.Error):
            process = process or whom(started)
            if process:
                samples.append(Sample(process.memory_info().rss, process.num_fds(), process.num_threads()))
        return False

    started.wait_for(sample, seconds=LONGEST, pause=0.1)
    return samples, started.end()


def judge(tried: Tried, name: str, samples: Sequence[Sample], ended: Ended, folder: Path, *, models: int) -> None:
    """Add the outcome of one training or sweep, and its faults."""
    words, faults = growth(samples)
    done = [record for record in records.read_all(folder) if record["status"] == "ok"]
    faults += ended.faults()
    if ended.code or len(done) != models:
        faults.append(f"it ended with code {ended.code} and {len(done)} results: {ended.error[-300:]}")
    tried.outcomes[f"{name}: {words}"] = 1
    tried.faults += [f"{name}: {fault}" for fault in faults]


def growth(samples: Sequence[Sample]) -> tuple[str, list[str]]:
    """(medians early and late, in words; what has grown beyond noise). A training ends with its test, in the last tenth."""
    tenth = len(samples) // 10
    if tenth < 3:
        return "too short to tell", []
    early, late = samples[2 * tenth : 4 * tenth], samples[7 * tenth : 9 * tenth]
    before, after = (statistics.median(each.memory for each in part) for part in (early, late))
    noise = 3 * statistics.pstdev(each.memory - last.memory for last, each in itertools.pairwise(late))
    faults = []
    if after - before > GROWTH + noise:
        faults.append(f"memory grew from {before / MIB:.0f} to {after / MIB:.0f} MiB, beyond {(GROWTH + noise) / MIB:.0f}")
    words = [f"memory {before / MIB:.0f} → {after / MIB:.0f} MiB (noise {noise / MIB:.1f})"]
    for kind in ("files", "threads"):
        then, now = (statistics.median(getattr(each, kind) for each in part) for part in (early, late))
        words.append(f"{kind} {then:.0f} → {now:.0f}")
        if now > then + 2:
            faults.append(f"open {kind} grew from {then:.0f} to {now:.0f}")
    return ", ".join(words), faults
