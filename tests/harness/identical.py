"""Whether two runs are one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.harness import records
from common import training

# What a clock wrote.
CLOCK = {f"history/{column}" for column in (*training.CLOCK, *training.PLACEMENT, "floor_seconds")}


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


def assert_same_arrays(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.asarray(ours[name]).dtype == np.asarray(theirs[name]).dtype, name
        assert np.array_equal(ours[name], theirs[name]), name


def assert_same_run(ours: Path, theirs: Path, *, other_settings: bool = False) -> None:
    """Bit for bit: all that the checkpoint holds, and all of the record but timing, environment and peak memory.

    `other_settings`: their settings differ, and nothing else may.
    """
    (a,), (b,) = (list(folder.glob("*.h5")) for folder in (ours, theirs))
    first, second = contents(a), contents(b)
    if other_settings:
        del first["@config"], second["@config"]
    assert_same_arrays(first, second)
    (a,), (b,) = (records.read_all(folder) for folder in (ours, theirs))
    assert a["status"] == "ok"
    for record in (a, b):
        del record["test"]["per_image"]["file"]  # named by the settings; its hash stays
    measured = {"timing", "environment", "peak_memory_bytes"}
    differing = {name for name in a if name not in measured and a[name] != b[name]}
    assert differing - {"changed"} == ({"config"} if other_settings else set())
