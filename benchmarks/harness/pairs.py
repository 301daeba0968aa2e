"""Two runs compared: quality in pairs of the same test image where both have them, speed by the spread over chunks.

For the images i that both runs scored, with d_i = second_i − first_i nats:

    difference = mean(d), its standard error = std(d) / √images

An image that is hard for one model is hard for the other: this error is far below √(se₁² + se₂²), the error of the difference
of two independent means, which is used where a run has no results of each image. Both are over test images: what another seed
would change is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import presets, reports
from benchmarks.harness.record_names import data_names, name_of, titled, trained_by
from benchmarks.harness.record_schema import Record
from common.config import Config
from common.errors import UserError
from common.estimators import standard_error

QUANTITIES = ("elbo", "log_px")
WITHIN = 2.0  # standard errors: a smaller difference is called noise

Scores = dict[str, np.ndarray]  # what `per_image.read` returns


@dataclass(frozen=True, kw_only=True)
class Difference:
    """second − first, nats per image; its standard `error`, None where unknown; the number of paired `images`, or None."""

    mean: float
    error: float | None
    images: int | None

    @property
    def paired(self) -> bool:
        return self.images is not None

    @property
    def beyond_noise(self) -> bool | None:
        """None where the error is unknown."""
        return None if self.error is None else abs(self.mean) >= WITHIN * self.error and self.mean != 0


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Examples a second: `ratio` is second / first; the middle half of a run's chunks is about its median ± half its
    interquartile range."""

    ratio: float
    beyond_spread: bool | None  # None where a run has no range


def difference(first: Record, second: Record, *, scores: tuple[Scores | None, Scores | None]) -> dict[str, Difference]:
    """Quantity of QUANTITIES → difference of two finished runs on one data set; of those that can be compared.

    `scores`: each run's results by image. log p(x) with another K is another bound, and is left out.
    Raises `UserError` for runs of two data sets, and for a run without a result.
    """
    for record in (first, second):
        if any(record["test"][name] is None for name in QUANTITIES):
            raise UserError(f"{name_of(record)} has no result ({record['status']}); there is nothing to compare.")
    if first["dataset"]["sha256"] != second["dataset"]["sha256"]:
        names = " and ".join(titled(its["name"], its.get("binarize")) for its in (first["dataset"], second["dataset"]))
        raise UserError(f"The runs are on two data sets, {names}: their results can't be compared.")
    same_k = first["test"]["importance_samples"] == second["test"]["importance_samples"]
    return {name: _difference(first, second, name, scores) for name in (QUANTITIES if same_k else QUANTITIES[:1])}


def _difference(first: Record, second: Record, name: str, scores: tuple[Scores | None, Scores | None]) -> Difference:
    one, other = scores
    if one is not None and other is not None:
        common, rows, columns = np.intersect1d(one["image"], other["image"], assume_unique=True, return_indices=True)
        if len(common) > 1:
            of_images = other[name][columns].astype(np.float64) - one[name][rows]
            return Difference(mean=float(of_images.mean()), error=standard_error(of_images), images=len(common))
    errors = [record["test"][f"{name}_se"] for record in (first, second) if record["test"]["images"] > 1]
    error = None if None in errors or len(errors) < 2 else math.hypot(*errors)
    return Difference(mean=second["test"][name] - first["test"][name], error=error, images=None)


def speeds(first: Record, second: Record) -> Speeds | None:
    """None where a run has no speed."""
    timings = [record["timing"] for record in (first, second)]
    one, other = (timing["examples_per_s"] for timing in timings)
    if not one or not other:
        return None
    ranges = [timing["examples_per_s_iqr"] for timing in timings if timing["chunks"] != 1]
    beyond = None if None in ranges or len(ranges) < 2 else abs(other - one) > sum(ranges) / 2
    return Speeds(ratio=other / one, beyond_spread=beyond)


# --- which runs are pairs, and in what they differ ---

Found = Mapping[Path, Record]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """`pairs`: (path, path) of runs that are equal in all but `apart`: name → (value of the first, of the second).

    `keys`: the names that tell the pairs from one another, as few as do; `labels`: their values, of each pair.
    """

    pairs: list[tuple[Path, Path]]
    keys: list[str]
    labels: list[list[Any]]
    apart: dict[str, tuple[Any, Any]]
    left_over: tuple[list[Path], list[Path]]


def matching(first: Found, second: Found) -> Matching:
    """The pairs of two sets of runs.

    A setting that has one value in all first runs and another in all second runs is what is compared: a pair may differ in it.
    Raises `UserError` where no run of the first has a counterpart in the second.
    """
    named = data_names([*first.values(), *second.values()])
    of_first, of_second = ({path: _what(record, named) for path, record in found.items()} for found in (first, second))
    apart = {}
    for name in next(iter(of_first.values())):
        values = [{what[name] for what in found.values()} for found in (of_first, of_second)]
        if [len(each) for each in values] == [1, 1] and values[0] != values[1]:
            apart[name] = (*values[0], *values[1])
    counterparts = {_key(what, apart): path for path, what in of_second.items()}
    pairs = [(path, counterparts[key]) for path, what in of_first.items() if (key := _key(what, apart)) in counterparts]
    if not pairs:
        raise UserError(
            "No run of A has a counterpart in B; give two records, or folders whose runs differ in the same settings."
        )
    keys = _telling([of_first[path] for path, _ in pairs], but=apart)
    paired = {path for pair in pairs for path in pair}
    return Matching(
        pairs=pairs,
        keys=keys,
        labels=[[of_first[path][key] for key in keys] for path, _ in pairs],
        apart=apart,
        left_over=([path for path in first if path not in paired], [path for path in second if path not in paired]),
    )


def _telling(runs: list[dict[str, Any]], *, but: Collection[str]) -> list[str]:
    """The names, in their order, that tell apart runs in which the names before agree."""
    keys: list[str] = []
    told = 1
    for name in (name for name in runs[0] if name not in but):
        if (count := len({tuple(run[key] for key in (*keys, name)) for run in runs})) > told:
            keys, told = [*keys, name], count
    return keys


def _key(what: dict[str, Any], apart: Collection[str]) -> tuple[Any, ...]:
    return tuple(value for name, value in what.items() if name not in apart)


def _what(record: Record, named: Callable[[Record], str]) -> dict[str, Any]:
    """Name → value of all that a run's file name may say; `named`: of `data_names`."""
    config = Config.from_dict(record["config"])
    settings = presets.flat(config) | {"compile_from": config.training.steps >= config.training.compile_from}
    return {
        "data set": named(record),
        "family": settings.pop("variational"),
        "backend": trained_by(record),
        "preset": record["preset"],
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }


def apart(first: Record, second: Record) -> dict[str, tuple[Any, Any]]:
    """Name → (value of the first, of the second) of all in which two runs differ: settings, then code, versions and machine."""
    named = data_names((first, second))
    one, other = (_what(record, named) | _surroundings(record) for record in (first, second))
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _load(load: float | None, cores: int | None) -> str | None:
    """A load that slowed a run; None for one that left a core free."""
    return f"{load:.1f}" if load and cores and load > cores else None


def _surroundings(record: Record) -> dict[str, Any]:
    environment = record["environment"]
    machine, threads = environment["machine"] or {}, environment["threads"] or {}
    return {
        "commit": reports.commit(environment),
        **{name: machine.get(name) for name in ("cpu", "model", "vectors", "gpu", "memory_bytes", "os")},
        "cores": threads.get("cores"),
        "load before training": _load(environment.get("load"), threads.get("cores")),
        **(threads.get("variables") or {}),
        **(environment["versions"] or {}),
    }
