"""Two runs compared: quality in pairs of the same test image where both have them, speed by the spread over chunks.

For the images i that both runs scored, with d_i = second_i − first_i nats:

    difference = mean(d), its standard error = std(d) / √images

An image that is hard for one model is hard for the other: the error of the paired difference is far below √(se₁² + se₂²), which
is that of the difference of two means over images, and all that is known without results of each image. The error is over test
images. What another seed would change is not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.records import Record, name_of
from common.errors import UserError
from common.estimators import standard_error

QUANTITIES = ("elbo", "log_px")
WITHIN = 2.0  # standard errors: a smaller difference is called noise

Scores = dict[str, np.ndarray]  # what `records.per_image` returns


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
    """Examples a second: `ratio` is second / first; a run's middle half of chunks is about its median ± half its range."""

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
        names = " and ".join(record["dataset"]["name"] for record in (first, second))
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
    (one, other), ranges = (
        [record["timing"][key] for record in (first, second)] for key in ("examples_per_s", "examples_per_s_iqr")
    )
    if not one or not other:
        return None
    beyond = None if None in ranges else abs(other - one) > sum(ranges) / 2
    return Speeds(ratio=other / one, beyond_spread=beyond)
