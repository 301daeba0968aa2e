"""The command that trains a record's run again, made from the record alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import presets, threads
from benchmarks.harness.record_schema import Record
from common.config import Config


def of(record: Record, *, seeds: Sequence[int] = ()) -> str:
    """`python -m benchmarks run …`, quoted for a shell, with a flag for each setting that `presets.differing` finds.

    seeds: of a run each, in place of the record's. A study's runs have names that aren't presets: their command begins at the
    preset "standard". A run that several backends trained is trained by its last one, from the beginning.
    """
    config = Config.from_dict(record["config"])
    preset = record["preset"] if record["preset"] in presets.PRESETS else "standard"
    flags: dict[str, Any] = {
        "preset": preset,
        "backend": record["backend"],
        "variational": record["variational"],
        "seed": seeds or record["seed"],
        "data": record["dataset"]["name"],
        "binarize": record["dataset"].get("binarize"),
        "threads": _threads(record),
    }
    differing = presets.differing(config, presets.PRESETS[preset])
    flags |= {name: value for name, value in differing.items() if name not in (*flags, "image_shape")}  # the data's own shape
    return shlex.join(["python", "-m", "benchmarks", "run", *(word for flag in flags.items() for word in _words(*flag))])


def _threads(record: Record) -> str | None:
    """The number that `--threads` set for every framework; None where they chose for themselves."""
    variables = (record["environment"]["threads"] or {}).get("variables") or {}
    counts = {variables.get(name) for name in threads.COUNTS}
    return counts.pop() if len(counts) == 1 else None


def _words(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, Sequence) and not isinstance(value, str) else [value])]
