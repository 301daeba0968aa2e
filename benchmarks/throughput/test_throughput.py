"""The benchmarks, each with its floor between its rounds; what is derived from them is in their `extra_info`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import cases, cores, spread
from benchmarks.harness.cases import BATCHES, FAMILIES, KINDS
from benchmarks.harness.presets import STANDARD
from common import protocol
from common.clock import timed
from common.config import factors

LEAST_ROUNDS, MOST_ROUNDS = 5, 200
LOOK_S = 1.0  # how far apart the cores are is looked at before a round, and so often at most


def measure(benchmark: Any, call: Callable[[], object], *, seconds: float, before: Callable[[], None]) -> dict[str, Any]:
    """Time `call` for so many seconds, `before` outside the clock before each round.

    The first call compiles and is reported alone; the second says how many rounds there is time for.
    """
    first_s, again_s = (timed(call, synchronize=lambda: None)[1] for _ in range(2))  # `call` returns when the device is idle
    rounds = int(np.clip(seconds / max(again_s, 1e-9), LEAST_ROUNDS, MOST_ROUNDS))
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
    found = {"first_call_s": first_s, "round_trips_ns": [*trips, cores.round_trip()]}
    return found | ({"warning": warning} if warning else {})


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_throughput(
    benchmark: Any, benches: Any, backend: str, device: Any, precision: Any, seconds: float, family: str, kind: str, batch: int
) -> None:
    case = benches(family).case(kind, batch, steps=cases.chunk_steps(batch) if kind == "train" else None)
    floors: list[float] = []
    benchmark.group = f"{kind}, {family}, batch {batch}"
    found = measure(benchmark, case.call, seconds=seconds, before=lambda: floors.append(case.floor_seconds()))
    step_s, floor_s = benchmark.stats.stats.median / case.steps, float(np.median(floors)) / case.steps
    benchmark.extra_info |= found | {
        "backend": backend,
        "device": device,
        "precision": factors(STANDARD.dtype, precision),
        "family": family,
        "kind": kind,
        "batch": batch,
        "steps": case.steps,
        "ms_per_step": 1e3 * step_s,
        "iqr_ms_per_step": 1e3 * benchmark.stats.stats.iqr / case.steps,
        "examples_per_s": case.examples / step_s,
        "floor_ms_per_step": 1e3 * floor_s,
        "floor_ratio": step_s / floor_s,
        "device_peak_bytes": protocol.probes(backend).device_peak(device),
    }


@pytest.mark.parametrize("kind", ["matrix", "launch", "copy"])
def test_machine(benchmark: Any, backend: str, device: Any, precision: Any, seconds: float, kind: str) -> None:
    """What floors and the roofline are made of: the rate of a large product, an empty launch, a copy in memory."""
    benchmark.group = f"machine, {kind}"
    work = 0.0
    if kind == "matrix":
        call, work = cases.matrix(backend, device, precision)
    elif kind == "launch":
        call, _ = cases.matrix(backend, device, precision, size=1)
    else:
        call, work = cases.copy(backend, device)
    found = measure(benchmark, call, seconds=seconds, before=lambda: None)
    median = benchmark.stats.stats.median
    benchmark.extra_info |= found | {
        "backend": backend,
        "device": device,
        "precision": factors(STANDARD.dtype, precision),
        "kind": kind,
        "ms_per_step": 1e3 * median,
        "rate": work / median,
    }
