"""A record's times, from the seconds of a run's chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import record_schema, spread
from common import checkpoints
from common.config import Training


def timing(history: dict[str, list[float]], settings: Training) -> dict[str, Any]:
    """A record's `timing` from the history's chunks; values are None where none or too few were timed.

    The median is over chunks of the run's full length: a resumed run's earlier chunks can have other lengths. A process's first
    chunk of a length compiles: the median leaves it out, and compile_s sums its seconds beyond a median chunk of as many steps.
    """
    steps, seconds, first = (np.array(history[column]) for column in checkpoints.CLOCK)
    full = min(settings.chunk, settings.log_interval, settings.validation_interval, settings.steps)
    steady = (first == 0) & (steps == full)
    result: dict[str, Any] = dict.fromkeys(record_schema.TIMING)
    result |= {
        "placement_s": float(sum(history["placement_seconds"])),
        "first_chunk_s": float(seconds[0]) if len(seconds) else None,
    }
    if not steady.any():
        return result
    step_s = seconds[steady] / steps[steady]
    compile_s = float(np.maximum(seconds - np.median(step_s) * steps, 0)[first == 1].sum())
    rates = settings.batch_size / step_s
    low, high = np.percentile(rates, [25, 75])
    result |= {
        "compile_s": compile_s,
        "steady_s": float(seconds.sum()) - compile_s,
        "examples_per_s": settings.batch_size / float(np.median(step_s)),
        "examples_per_s_iqr": float(high - low) if steady.sum() > 1 else None,  # one chunk has no spread
        "chunks": int(steady.sum()),
    }
    result["warning"] = spread.warning(median=result["examples_per_s"], iqr=result["examples_per_s_iqr"])
    if history["floor_seconds"]:
        floor_s = float(np.median(history["floor_seconds"]))
        result |= {"floor_s": floor_s, "floor_ratio": float(np.median(step_s)) / floor_s}
    return result
