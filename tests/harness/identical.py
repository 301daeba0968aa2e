"""Whether two runs are one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import records
from benchmarks.torture import same


def assert_same_arrays(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    differing = same.differing(ours, theirs)
    assert not differing, ", ".join(differing)


def assert_same_run(ours: Path, theirs: Path, *, other_settings: bool = False) -> None:
    """Bit for bit: all that the checkpoint holds, and all of the record but timing, environment and peak memory.

    `other_settings`: their settings differ, and nothing else may.
    """
    (a,), (b,) = (list(folder.glob("*.h5")) for folder in (ours, theirs))
    first, second = same.contents(a), same.contents(b)
    if other_settings:
        del first["@config"], second["@config"]
    assert_same_arrays(first, second)
    (a,), (b,) = (records.read_all(folder) for folder in (ours, theirs))
    assert a["status"] == "ok"
    for record in (a, b):
        del record["test"]["per_image"]["file"]  # named by the settings; its hash stays
    differing = {name for name in a if name not in same.MEASURED and a[name] != b[name]}
    assert differing - {"changed"} == ({"config"} if other_settings else set())
