"""ELBO, log p(x), their errors and the effective sample size, from raw log weights. Nats per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from common.noise import NOISE_BLOCK
from common.protocol import Scorer

ENOUGH, LEAST_ESS = 100, 2.0  # from so many samples on, a smaller effective sample size is a warning
FEWEST_IMAGES = 10  # for a warning by a standard error over images: that of fewer images is too often too small


@dataclass(frozen=True)
class PerImage:
    """Estimates of each image, [images]: its index, and its mean log w.

    For each k of `sizes`, from the first k of the image's samples, [sizes, images]: `nested`, log mean w; `ess`, the effective
    sample size; and `nested_error`, the standard error of `nested` over other draws of the samples.
    """

    image: np.ndarray
    elbo: np.ndarray
    sizes: list[int]
    nested: np.ndarray
    ess: np.ndarray
    nested_error: np.ndarray

    @property
    def log_px(self) -> np.ndarray:
        return np.asarray(self.nested[-1])


@dataclass(frozen=True)
class Estimates:
    """Means over images. A standard error (…_se) is over other images; log_px_mc_se is over other draws of the samples.

    A standard error is NaN where it is unknown: that over images of a single image, log_px_mc_se of a single sample.
    """

    elbo: float
    elbo_se: float
    log_px: float
    log_px_se: float
    log_px_mc_se: float
    ess: float
    importance_samples: int
    images: int


def log_mean_exp(log_w: np.ndarray) -> np.ndarray:
    """log of the mean weight of each image, [batch], from log weights [samples, batch]."""
    top = log_w.max(axis=0)
    return np.asarray(top + np.log(np.exp(log_w - top).mean(axis=0)))


def log_mean_exp_error(log_w: np.ndarray) -> np.ndarray:
    """The standard error of `log_mean_exp` over independent draws of the samples, [batch]; NaN for a single sample.

    By the jackknife (Efron 1982): √((K − 1)/K·Σₖ(lₖ − l̄)²), lₖ the estimate without sample k. Where one weight is nearly all of
    the sum, the draws have not seen how far weights spread, and the error is too small: see `effective_sample_size`.
    """
    samples = len(log_w)
    if samples == 1:
        return np.full(log_w.shape[1], np.nan)
    w = np.exp(log_w - log_w.max(axis=0))
    # The rest without the largest weight, by subtraction, would have few digits.
    rest = np.where(w == 1, np.sum(w, axis=0, where=w < 1) + np.maximum((w == 1).sum(axis=0) - 1, 0), w.sum(axis=0) - w)
    with np.errstate(divide="ignore"):
        without = np.log(np.maximum(rest, np.finfo(np.float64).tiny))
    return np.asarray(np.sqrt((samples - 1) / samples * np.square(without - without.mean(axis=0)).sum(axis=0)))


def effective_sample_size(log_w: np.ndarray) -> np.ndarray:
    """(Σw)²/Σw², [batch], from log weights [samples, batch] (Kong 1992)."""
    w = np.exp(log_w - log_w.max(axis=0))
    return np.asarray(w.sum(axis=0) ** 2 / np.square(w).sum(axis=0))


def stream(
    session: Scorer, handle: Any, *, images: np.ndarray, samples: int, seed: int, image_batch: int, sample_block: int
) -> Iterator[np.ndarray]:
    """Log weights float64 [samples, batch] of images indices [images], batch by batch: memory does not grow with them.

    `image_batch` and `sample_block` change no sample: the noise is a function of (seed, image, sample). They change results by
    rounding alone, since the order of a sum depends on the arrays' shapes. Every batch has the shape of the first, so that a
    backend compiles once: the last batch is filled up with its last image, and the surplus is cut off.
    """
    sample_block = -(-min(sample_block, samples) // NOISE_BLOCK) * NOISE_BLOCK
    image_batch = min(image_batch, len(images))
    for first in range(0, len(images), image_batch):
        batch = images[first : first + image_batch]
        rows = np.pad(batch, (0, image_batch - len(batch)), mode="edge")
        blocks = [
            session.log_weights(handle, rows, samples=range(k, min(k + sample_block, samples)), seed=seed, noise=None)
            for k in range(0, samples, sample_block)
        ]
        yield np.concatenate(blocks).astype(np.float64)[:, : len(batch)]


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of these values; NaN for a single value: unknown."""
    with np.errstate(invalid="ignore"):  # of values that aren't finite: the caller says so
        return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def plus_minus(error: float) -> str:
    """A standard error in words: "± 0.123"; "± unknown" for NaN."""
    return "± unknown" if math.isnan(error) else f"± {error:.3f}"


# A column of `PerImage` → its estimate from the log weights of the first samples, [samples, batch].
BY_SIZE = {"nested": log_mean_exp, "ess": effective_sample_size, "nested_error": log_mean_exp_error}


def per_image(
    session: Scorer,
    handle: Any,
    *,
    images: np.ndarray,
    samples: int,
    seed: int,
    image_batch: int,
    sample_block: int,
    report: Callable[[int], None],
) -> PerImage:
    """Estimates of the session's model for images indices [images], with exactly K = `samples` importance samples an image.

    ELBO: mean of log w. log p(x): log mean w, a lower bound in expectation that tightens with K (Burda et al. 2016, theorem 1).
    `report` is called with the number of images done since its last call.
    """
    elbo: list[np.ndarray] = []
    by_size: dict[str, list[list[np.ndarray]]] = {name: [] for name in BY_SIZE}
    sizes = nested_sizes(samples)
    for log_w in stream(
        session, handle, images=images, samples=samples, seed=seed, image_batch=image_batch, sample_block=sample_block
    ):
        with np.errstate(invalid="ignore"):  # of weights that aren't finite: the caller says so
            elbo.append(log_w.mean(axis=0))
            for name, estimate in BY_SIZE.items():
                by_size[name].append([estimate(log_w[:k]) for k in sizes])
        report(log_w.shape[1])
    return PerImage(
        image=images,
        elbo=np.concatenate(elbo),
        sizes=sizes,
        **{name: np.concatenate(values, axis=1) for name, values in by_size.items()},
    )


def nested_sizes(samples: int) -> list[int]:
    """1, 10, 100 … below K = `samples`, and K."""
    return [*(k for k in (10**i for i in range(len(str(samples)))) if k < samples), samples]


def by_samples(values: PerImage) -> dict[str, list[float]]:
    """log p(x) and the effective sample size against the number of samples: {samples, log_px, log_px_se, ess}, [sizes] each.

    Means over the images.
    """
    return {
        "samples": list(values.sizes),
        "log_px": [float(log_px.mean()) for log_px in values.nested],
        "log_px_se": [standard_error(log_px) for log_px in values.nested],
        "ess": [float(ess.mean()) for ess in values.ess],
    }


def refuse_divergence(values: PerImage) -> None:
    """Raises `UserError` where an image's estimate isn't a finite number."""
    finite = np.isfinite(values.elbo) & np.isfinite(values.nested).all(axis=0)
    if not finite.all():
        raise UserError(
            f"The model has diverged: of {int((~finite).sum()):,} of {len(finite):,} images the ELBO or log p(x) isn't a "
            "finite number, and there is no score; evaluate an earlier checkpoint, or train again with a lower --learning-rate."
        )


def warning(values: PerImage, *, of: int, highest: float | None) -> str | None:
    """A sentence where the estimates contradict what they are, a sign of a wrong density; else None.

    log p(x) is at least the ELBO (Jensen) and rises with K in expectation (Burda et al. 2016, theorem 1). Over all `of` images
    of the data set it is below `highest`, nats per image, which no model has reached; None where that isn't known. The mean of
    n images may be three standard errors, each s/√n·√(1 − n/of), from that of all. Where one sample has nearly all the weight,
    log p(x) is far too low, and its Monte Carlo error too small.
    """
    elbo, log_px, images = float(values.elbo.mean()), float(values.log_px.mean()), len(values.elbo)
    enough, left_out = images >= FEWEST_IMAGES, 1 - images / of
    chance = 3 * standard_error(values.log_px) * np.sqrt(left_out) if left_out else 0.0
    if log_px < elbo - 1e-6 * abs(elbo):
        return f"log p(x) {log_px:.2f} is below the ELBO {elbo:.2f}."
    if highest is not None and (enough or not left_out) and log_px - chance > highest:
        return f"log p(x) {log_px:.2f} is above {highest:.0f} nats, which no model of this data set reaches."
    for i in range(1, len(values.sizes)):
        gain = values.nested[i] - values.nested[i - 1]
        if enough and gain.mean() < -3 * standard_error(gain):
            return f"log p(x) falls by {-gain.mean():.2f} nats from K = {values.sizes[i - 1]:,} to {values.sizes[i]:,}."
    if values.sizes[-1] >= ENOUGH and (ess := float(values.ess[-1].mean())) < LEAST_ESS:
        return f"The effective sample size is {ess:.1f} of {values.sizes[-1]:,}: log p(x) is too low by an unknown amount."
    return None


def summary(values: PerImage) -> Estimates:
    """Means over the images, and their errors."""
    return Estimates(
        elbo=float(values.elbo.mean()),
        elbo_se=standard_error(values.elbo),
        log_px=float(values.log_px.mean()),
        log_px_se=standard_error(values.log_px),
        log_px_mc_se=float(np.sqrt(np.square(values.nested_error[-1]).sum()) / len(values.elbo)),
        ess=float(values.ess[-1].mean()),
        importance_samples=values.sizes[-1],
        images=len(values.elbo),
    )


def estimate(session: Scorer, handle: Any, **arguments: Any) -> Estimates:
    """`summary` of `per_image`, with its arguments."""
    return summary(per_image(session, handle, **arguments))
