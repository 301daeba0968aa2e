"""Each backend's log weights, judged by the one estimator, against exact answers: quadrature over a small latent, in NumPy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from common import annealing, estimators
from common.config import Annealing, Config
from common.parameters import State
from common.protocol import Session
from tests.parity import reference
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

ROWS = np.arange(25, dtype=np.int32)
DRAWN = 8000  # samples an image


@pytest.fixture(params=[1, 2])
def latent(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def wide(config: Config) -> State:
    """Random weights, q(z|x) wide enough that the weights' variance is finite: their bias is known only then."""
    state, n = random_state(config), config.model.latent_size
    state["parameters/encoder.out.weight"] *= 0.3
    state["parameters/encoder.out.bias"][n : 2 * n] = {"mean-field": 1.0, "flow": 1.4}[config.model.variational]
    for name in state:
        if name.startswith("parameters/") and name.endswith("made.out.weight"):
            state[name] *= 0.5
    return state


@dataclass(frozen=True)
class Exact:
    """Of each image, [images]: log p(x), the ELBO, the variance of log w, and moments of w/p(x), whose mean is 1."""

    log_px: np.ndarray
    elbo: np.ndarray
    log_variance: np.ndarray
    variance: np.ndarray
    third: np.ndarray


@functools.cache
def exact(family: str, latent: int) -> Exact:
    """By the trapezoid rule on a grid of z for p(x), and on one of the noise for what is an expectation under q(z|x)."""
    config = small(family, latent_size=latent)
    state, x = wide(config), IMAGES[ROWS].astype(np.float64)
    axis = np.linspace(-7, 7, {1: 4001, 2: 201}[latent])
    grid = np.stack(np.meshgrid(*[axis] * latent, indexing="ij"), -1).reshape(-1, 1, latent)
    cell = (axis[1] - axis[0]) ** latent
    log_joint = reference.log_likelihood(state, x, grid) + reference.log_normal(grid)
    log_px = np.log(np.exp(log_joint).sum(0) * cell)
    log_w = reference.log_weights(config, state, x, np.repeat(grid, len(x), 1))
    density = np.exp(reference.log_normal(grid)) * cell
    elbo = (density * log_w).sum(0)
    ratio = np.exp(log_w - log_px)
    # Two integrals, over z and over the noise, that must agree: they share nothing but the decoder.
    assert np.abs((density * ratio).sum(0) - 1).max() < 2e-3
    return Exact(
        log_px=log_px,
        elbo=elbo,
        log_variance=(density * (log_w - elbo) ** 2).sum(0),
        variance=(density * (ratio - 1) ** 2).sum(0),
        third=(density * (ratio - 1) ** 3).sum(0),
    )


@functools.cache
def trained(backend: str, family: str, latent: int) -> Session:
    config = small(family, latent_size=latent)
    return session(backend, config, wide(config))


@functools.cache
def drawn(backend: str, family: str, latent: int) -> np.ndarray:
    """Log weights [samples, images] on the device's own noise."""
    s = trained(backend, family, latent)
    blocks = estimators.stream(s, s.place(IMAGES), images=ROWS, samples=DRAWN, seed=3, image_batch=len(ROWS), sample_block=2000)
    return np.concatenate(list(blocks), axis=1)


def grouped(log_w: np.ndarray, samples: int) -> np.ndarray:
    """[samples, groups, images]: as many independent estimates with K = samples as fit."""
    return log_w[: len(log_w) // samples * samples].reshape(-1, samples, log_w.shape[1]).swapaxes(0, 1)


def test_log_weights_are_numpys(backend: str, family: str, latent: int) -> None:
    config = small(family, latent_size=latent)
    s, noise = trained(backend, family, latent), np.random.default_rng(0).normal(size=(50, len(ROWS), latent))
    found = s.log_weights(s.place(IMAGES), ROWS, samples=range(50), seed=0, noise=noise)
    assert deviation(found, reference.log_weights(config, wide(config), IMAGES[ROWS].astype(np.float64), noise)) < 1e-12


def test_the_elbo_converges_to_its_integral_as_the_root_of_the_samples(backend: str, family: str, latent: int) -> None:
    log_w, answer = drawn(backend, family, latent), exact(family, latent)
    error = np.sqrt(answer.log_variance.sum() / DRAWN) / len(ROWS)
    assert abs(log_w.mean() - answer.elbo.mean()) < 4.5 * error
    for samples in (1, 20, 400):
        squares = (grouped(log_w, samples).mean(0) - answer.elbo) ** 2 * samples / answer.log_variance
        assert abs(squares.mean() - 1) < 4.5 * estimators.standard_error(squares.ravel())
        assert squares.std() < 10


def test_log_px_converges_to_its_integral_with_half_the_variance_over_k(backend: str, family: str, latent: int) -> None:
    """E[log p̂] − log p = −v/2K + (μ₃/3 − ¾v²)/K² + O(K⁻³), v and μ₃ the moments of w/p(x).

    E[p̂/p] is 1 exactly, so that log p̂/p − (p̂/p − 1) has the same mean and a far smaller variance.
    """
    log_w, answer = drawn(backend, family, latent), exact(family, latent)
    error = np.sqrt(answer.variance.sum() / DRAWN) / len(ROWS)
    assert abs((estimators.log_mean_exp(log_w) - answer.log_px).mean()) < 4.5 * error
    first, second = answer.variance.mean() / 2, (answer.third / 3 - 0.75 * answer.variance**2).mean()
    sizes, biases = np.array([40, 80, 160, 320]), []
    for samples in sizes:
        log_ratio = estimators.log_mean_exp(grouped(log_w, samples)) - answer.log_px
        values = log_ratio - np.expm1(log_ratio)
        allowed = 4.5 * estimators.standard_error(values.ravel()) + abs(second) / samples**2
        assert abs(values.mean() + first / samples - second / samples**2) < allowed
        assert allowed < 0.4 * first / samples
        biases.append(values.mean())
    slope = np.polyfit(np.log(sizes), np.log(-np.array(biases)), 1)[0]
    assert abs(slope + 1) < 0.12


def test_the_importance_weighted_bound_is_monotone_in_k(backend: str, family: str) -> None:
    """On other noise for each K, so that nothing but the bound itself orders them."""
    log_w, answer = drawn(backend, family, 2), exact(family, 2)
    parts = np.split(log_w, 8)
    sizes = (1, 2, 5, 10, 25, 50, 100, 1000)
    bounds = [estimators.log_mean_exp(grouped(part, k)) - answer.log_px for part, k in zip(parts, sizes, strict=True)]
    means, errors = ([f(b.ravel()) for b in bounds] for f in (np.mean, estimators.standard_error))
    for k in range(len(sizes) - 1):
        assert means[k + 1] > means[k] - 3 * np.hypot(errors[k], errors[k + 1])
    assert all(mean < 4 * error for mean, error in zip(means, errors, strict=True))
    assert means[0] < means[3] - 10 * errors[0]


def test_every_image_and_sample_has_noise_of_its_own(backend: str) -> None:
    """The same picture at every place of the data set: any two equal log weights would come from the same noise."""
    s = trained(backend, "mean-field", 2)
    log_w = s.log_weights(s.place(np.zeros_like(IMAGES)), ROWS, samples=range(100), seed=3, noise=None)
    assert len(np.unique(log_w.round(10))) == log_w.size
    other = s.log_weights(s.place(np.zeros_like(IMAGES)), ROWS, samples=range(100), seed=4, noise=None)
    assert not np.isin(other.round(10), log_w.round(10)).any()


def test_batches_blocks_and_k_change_nothing(backend: str) -> None:
    """The noise is the same; compiled code may add up, and fuse, in an order that depends on the shape.

    So to 1e-12 in float64; K samples are the first K of more, exactly K of them.
    """
    config = small("flow", flow_depth=1)
    s = session(backend, config, random_state(config))
    handle, images = s.place(IMAGES), np.arange(7, 100, dtype=np.int32)

    def stream(samples: int, image_batch: int, sample_block: int) -> np.ndarray:
        sizes = {"samples": samples, "image_batch": image_batch, "sample_block": sample_block}
        return np.concatenate(list(estimators.stream(s, handle, images=images, seed=3, **sizes)), axis=1)

    whole = stream(60, 93, 60)
    assert whole.shape == (60, 93)
    assert np.array_equal(whole, stream(60, 93, 60))
    for samples, image_batch, sample_block in ((60, 20, 25), (26, 93, 100), (1, 20, 1)):
        other = stream(samples, image_batch, sample_block)
        assert other.shape == (samples, 93)
        assert deviation(other, whole[:samples]) < 1e-12

    settings = {"images": images, "samples": 60, "seed": 3, "report": lambda images: None}
    found = estimators.estimate(s, handle, image_batch=20, sample_block=25, **settings)
    assert (found.images, found.importance_samples) == (93, 60)
    assert deviation(np.array(found.elbo), whole.mean()) < 1e-12
    assert deviation(np.array(found.log_px), np.log(np.exp(whole).mean(0)).mean()) < 1e-12


def test_annealing_finds_log_px(backend: str, family: str, latent: int) -> None:
    """From q as it is, not `wide`: within four standard errors of each image, and three of their mean."""
    config = small(family, latent_size=latent)
    s = session(backend, config, wide(config))
    options: dict[str, Any] = {"latent": latent, "seed": 4, "image_batch": 10}
    settings = Annealing(chains=60, distributions=12, leapfrogs=4)
    found = list(annealing.log_weights(s, s.place(IMAGES), images=ROWS, settings=settings, **options))
    assert np.array_equal(np.concatenate([images for images, _ in found]), ROWS)
    log_w = np.concatenate([weights for _, weights in found], axis=1)
    off, error = estimators.log_mean_exp(log_w) - exact(family, latent).log_px, estimators.log_mean_exp_error(log_w)
    assert (np.abs(off) < 4 * error).all()
    assert abs(off.mean()) < 3 * np.sqrt(np.square(error).sum()) / len(ROWS)
    plain = s.log_weights(s.place(IMAGES), ROWS, samples=range(60), seed=4, noise=None)
    assert np.square(error).mean() < 0.5 * np.square(estimators.log_mean_exp_error(plain)).mean()
