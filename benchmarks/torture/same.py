"""Whether two runs are one, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.harness import records
from common import checkpoints

# What a clock wrote.
CLOCK = {f"history/{column}" for column in (*checkpoints.CLOCK, *checkpoints.PLACEMENT, "floor_seconds")}
MEASURED = ("timing", "environment", "peak_memory_bytes")  # of a record


def contents(path: Path) -> dict[str, Any]:
    """Every array and attribute of a checkpoint file, its clock's readings aside."""
    found: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": value for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset) and name not in CLOCK:
            found[name] = item[()]

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names of `contents` that only one has, or whose bits or dtypes differ."""

    def equal(name: str) -> bool:
        a, b = np.asarray(ours[name]), np.asarray(theirs[name])
        return a.dtype == b.dtype and np.array_equal(a, b)

    return [name for name in sorted({*ours, *theirs}) if name not in ours or name not in theirs or not equal(name)]


def differences(ours: Path, theirs: Path) -> list[str]:
    """How the one run in a results folder differs from that in another: checkpoint, record without MEASURED, files' names."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (ours, theirs)]
    if names[0] != names[1]:
        return [f"the folder has {', '.join(names[0]) or 'nothing'}, not {', '.join(names[1])}"]
    (first, second) = (contents(next(folder.glob("*.h5"))) for folder in (ours, theirs))
    (a,), (b,) = (records.read_all(folder) for folder in (ours, theirs))
    of_record = [f"the record's {name}" for name in sorted(a | b) if name not in MEASURED and a.get(name) != b.get(name)]
    return [*(f"the checkpoint's {name}" for name in differing(first, second)), *of_record]
