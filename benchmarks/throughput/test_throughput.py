"""The benchmarks, each with its floor between its rounds; a row of the study is a benchmark's `extra_info`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import cases, cores, spread
from benchmarks.harness.cases import BATCHES, KINDS
from benchmarks.harness.presets import STANDARD
from common import protocol
from common.clock import timed
from common.config import FAMILIES, factors

LEAST_ROUNDS, MOST_ROUNDS = 5, 200
LOOK_S = 1.0  # the cores' latency is measured before a round, at most so often


def measure(benchmark: Any, call: Callable[[], object], *, asked: Any, before: Callable[[], object]) -> dict[str, Any]:
    """Time `call` for --seconds, `before` outside the clock before each round. Returns what every row says.

    The first call compiles and is reported alone; the second says how many rounds there is time for.
    """
    first_s, again_s = (timed(call, synchronize=lambda: None)[1] for _ in range(2))  # `call` returns when the device is idle
    rounds = int(np.clip(asked.seconds / max(again_s, 1e-9), LEAST_ROUNDS, MOST_ROUNDS))
    trips, looked = [], -LOOK_S

    def setup() -> None:
        nonlocal looked
        if time.perf_counter() - looked > LOOK_S:
            trips.append(cores.gathered())
            looked = time.perf_counter()
        before()

    benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=1)
    stats = benchmark.stats.stats
    warning = spread.warning(median=stats.median, iqr=stats.iqr)
    names = {"backend": asked.backend, "device": asked.device, "precision": factors(STANDARD.dtype, asked.precision)}
    found = {"first_call_s": first_s, "round_trips_ns": [*trips, cores.round_trip()]}
    return found | ({"warning": warning} if warning else {}) | names


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_throughput(benchmark: Any, benches: Any, asked: Any, family: str, kind: str, batch: int) -> None:
    case = benches(family).case(kind, batch, steps=cases.chunk_steps(batch) if kind == "train" else None)
    floors: list[float] = []
    benchmark.group = f"{kind}, {family}, batch {batch}"
    found = measure(benchmark, case.call, asked=asked, before=lambda: floors.append(case.floor_seconds()))
    step_s, floor_s = benchmark.stats.stats.median / case.steps, float(np.median(floors)) / case.steps
    benchmark.extra_info |= found | {
        "family": family,
        "kind": kind,
        "batch": batch,
        "steps": case.steps,
        "ms_per_step": 1e3 * step_s,
        "iqr_ms_per_step": 1e3 * benchmark.stats.stats.iqr / case.steps,
        "examples_per_s": case.examples / step_s,
        "floor_ms_per_step": 1e3 * floor_s,
        "floor_ratio": step_s / floor_s,
        "device_peak_bytes": protocol.probes(asked.backend).device_peak(asked.device),
    }


@pytest.mark.parametrize("kind", ["matrix", "launch", "copy"])
def test_machine(benchmark: Any, asked: Any, kind: str) -> None:
    """The parts of floors and of the roofline: the rate of a large product, an empty launch, a copy in memory."""
    benchmark.group = f"machine, {kind}"
    if kind == "copy":
        call, work = cases.copy(asked.backend, asked.device)
    else:
        size = cases.MATRIX if kind == "matrix" else 1
        call, work = cases.matrix(asked.backend, asked.device, asked.precision, size=size)
    found = measure(benchmark, call, asked=asked, before=lambda: None)
    median = benchmark.stats.stats.median
    rate = 0.0 if kind == "launch" else work / median
    benchmark.extra_info |= found | {"kind": kind, "ms_per_step": 1e3 * median, "rate": rate}
