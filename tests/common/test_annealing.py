"""Annealed importance sampling against models whose log p(x) is known, in NumPy alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from common import annealing, estimators
from common.annealing import Chains, Draws
from common.config import Annealing
from common.noise import ANNEALING, ANNEALING_DOWN, ANNEALING_SIZES

IMAGES = np.arange(8)


@dataclass(frozen=True)
class LinearGaussian:
    """z ~ N(0, I), x = Wz + standard normal noise; q(z|x) = N(loc, scale²), not the posterior.

    Its images are the model's draws.
    """

    latent: int
    pixels: int
    shift: float  # of q's means, in standard deviations of the posterior
    width: float  # of q's scales, beside the posterior's

    def __post_init__(self) -> None:
        draws = np.random.default_rng(self.latent)
        weight = draws.normal(size=(self.latent, self.pixels)) / np.sqrt(self.latent)
        z = draws.normal(size=(len(IMAGES), self.latent))
        x = z @ weight + draws.normal(size=(len(IMAGES), self.pixels))
        precision = np.eye(self.latent) + weight @ weight.T
        covariance = np.linalg.inv(precision)
        deviations = np.sqrt(np.diag(covariance))
        found = {"weight": weight, "x": x, "z": z, "mean": x @ weight.T @ covariance, "factor": covariance}
        found |= {"loc": found["mean"] + self.shift * deviations, "scale": self.width * deviations}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def log_px(self) -> np.ndarray:
        covariance = self.weight.T @ self.weight + np.eye(self.pixels)
        inverse = np.linalg.inv(covariance)
        constant = self.pixels * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1]
        return -0.5 * (np.einsum("ni,ij,nj->n", self.x, inverse, self.x) + constant)

    def target(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = self.loc + self.scale * noise
        left = self.x - z @ self.weight
        log_likelihood = -0.5 * (np.square(left) + np.log(2 * np.pi)).sum(-1)
        log_ratio = -0.5 * (np.square(z) - np.square(noise)).sum(-1) + np.log(self.scale).sum(-1)
        return log_likelihood + log_ratio, self.scale * (left @ self.weight.T - z) + noise

    def posterior_noise(self, seed: int) -> np.ndarray:
        """The noise that q takes to a draw of the true posterior, [batch, latent]."""
        draws = np.random.default_rng(seed).normal(size=self.mean.shape)
        return (self.mean + draws @ np.linalg.cholesky(self.factor).T - self.loc) / self.scale

    def draws(self, settings: Annealing, stream: str, *, seed: int = 0) -> Draws:
        return Draws(IMAGES, chains=settings.chains, latent=self.latent, seed=seed, stream=stream)

    def sizes(self, settings: Annealing) -> np.ndarray:
        return annealing.step_sizes(self.target, settings=settings, draws=self.draws(settings, ANNEALING_SIZES))


MODELS = [LinearGaussian(1, 3, 2.0, 1.5), LinearGaussian(4, 10, 0.7, 1.2), LinearGaussian(30, 60, 0.4, 1.2)]
SETTINGS = Annealing(chains=100, distributions=100, leapfrogs=8)


def settings_of(schedule: str) -> Annealing:
    return dataclasses.replace(SETTINGS, schedule=schedule)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"latent-{model.latent}")
def test_the_estimate_is_log_px(model: LinearGaussian, schedule: str) -> None:
    """Both ways, within three standard errors of each and of their mean."""
    settings = settings_of(schedule)
    sizes = model.sizes(settings)
    up = annealing.up(model.target, sizes=sizes, settings=settings, draws=model.draws(settings, ANNEALING))
    start = model.posterior_noise(1)
    down = annealing.down(model.target, start, sizes=sizes, settings=settings, draws=model.draws(settings, ANNEALING_DOWN))
    for found, sign in ((up, 1), (-down, -1)):
        off = sign * estimators.log_mean_exp(found) - model.log_px
        error = estimators.log_mean_exp_error(found)
        if sign == 1:  # downward chains share their beginning, which their spread doesn't show
            assert (np.abs(off) < 3.5 * error).all(), (off, error)
            assert abs(off.mean()) < 3 * np.sqrt(np.square(error).sum()) / len(off)
        assert np.abs(off).mean() < 0.5
    plain = estimators.log_mean_exp(model.target(model.draws(settings, ANNEALING).normal())[0])
    assert np.abs(plain - model.log_px).mean() > 3 * np.abs(estimators.log_mean_exp(up) - model.log_px).mean()


def test_the_truth_lies_between_the_two_bounds() -> None:
    """Few distributions miss much: in the mean over images the upward chains are below log p(x) and the downward ones above."""
    model, settings = MODELS[2], Annealing(chains=4, distributions=4, leapfrogs=2)
    sizes = model.sizes(settings)
    lower, upper = [], []
    for seed in range(20):
        up = annealing.up(model.target, sizes=sizes, settings=settings, draws=model.draws(settings, ANNEALING, seed=seed))
        down = annealing.down(
            model.target,
            model.posterior_noise(seed),
            sizes=sizes,
            settings=settings,
            draws=model.draws(settings, ANNEALING_DOWN, seed=seed),
        )
        lower.append(estimators.log_mean_exp(up).mean())
        upper.append(-estimators.log_mean_exp(-down).mean())
    truth = model.log_px.mean()
    assert np.mean(lower) + 3 * estimators.standard_error(np.array(lower)) < truth
    assert np.mean(upper) - 3 * estimators.standard_error(np.array(upper)) > truth


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_a_move_leaves_the_distribution_as_it_is(beta: float) -> None:
    """From exact draws of π_β, which is Gaussian here, twenty moves later the mean and the covariance are π_β's."""
    model, settings = MODELS[1], Annealing(chains=4000, distributions=40, leapfrogs=5)
    images = len(IMAGES)
    # log π_β is quadratic: its slope at 0 and its Hessian, column by column, say it whole.
    at_0 = model.target(np.zeros((1, images, 4)))[1][0]
    hessian = np.stack([model.target(np.broadcast_to(unit, (1, images, 4)))[1][0] - at_0 for unit in np.eye(4)], -1)
    covariance = np.linalg.inv((1 - beta * 0) * np.eye(4) - beta * hessian)
    mean = np.einsum("nij,nj->ni", covariance, beta * at_0)
    draws = np.random.default_rng(0).normal(size=(settings.chains, images, 4))
    points = mean + np.einsum("nij,cnj->cni", np.linalg.cholesky(covariance), draws)
    chains, of_moves = Chains.at(points, model.target), model.draws(settings, ANNEALING)
    size = np.full(images, 0.4)
    for _ in range(20):
        chains, chance = annealing.moved(chains, model.target, beta=beta, size=size, leapfrogs=5, draws=of_moves)
    assert 0.2 < chance.mean() < 0.999
    assert np.abs(chains.points - points).mean() > 0.5
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) / settings.chains)
    assert (np.abs(chains.points.mean(0) - mean) < 4.5 * error).all()
    found = np.einsum("cni,cnj->nij", chains.points - mean, chains.points - mean) / settings.chains
    scale = np.sqrt(np.einsum("nii,njj->nij", covariance, covariance))
    assert (np.abs(found - covariance) < 5 * np.sqrt(2) * scale / np.sqrt(settings.chains)).all()


def test_a_kept_slope_is_that_of_the_kept_point() -> None:
    model, settings = MODELS[1], Annealing(chains=50)
    chains, draws = Chains.at(np.zeros((50, len(IMAGES), 4)), model.target), model.draws(settings, ANNEALING)
    for size in (0.1, 1.5):
        chains, chance = annealing.moved(
            chains, model.target, beta=0.8, size=np.full(len(IMAGES), size), leapfrogs=3, draws=draws
        )
        log_w, slope = model.target(chains.points)
        assert np.array_equal(chains.log_w, log_w)
        assert np.array_equal(chains.slope, slope)
    assert chance.min() < 0.5


def test_the_sizes_are_tuned_to_the_acceptance() -> None:
    model, settings = MODELS[2], SETTINGS
    sizes = model.sizes(settings)
    assert sizes.shape == (99, len(IMAGES))
    chains, draws = Chains.at(model.posterior_noise(0)[None].repeat(100, 0), model.target), model.draws(settings, "test")
    taken = []
    for _ in range(20):
        chains, chance = annealing.moved(chains, model.target, beta=1.0, size=sizes[-1], leapfrogs=5, draws=draws)
        taken.append(chance.mean())
    assert 0.5 < np.mean(taken) < 0.8


def test_a_trajectory_that_leaves_the_numbers_is_refused() -> None:
    def target(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(np.abs(points[..., 0]) > 5, np.nan, 0.0), np.full_like(points, 1e200)

    draws = Draws(IMAGES, chains=3, latent=2, seed=0, stream=ANNEALING)
    start = Chains.at(np.zeros((3, len(IMAGES), 2)), target)
    chains, chance = annealing.moved(start, target, beta=0.5, size=np.ones(len(IMAGES)), leapfrogs=2, draws=draws)
    assert not chance.any()
    assert np.array_equal(chains.points, start.points)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_the_schedule(schedule: str) -> None:
    betas = annealing.schedule(settings_of(schedule), 40)
    assert len(betas) == 41
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (np.diff(betas) > 0).all()
    assert np.allclose(betas + betas[::-1], 1)
    middle = np.diff(betas)[20] / np.diff(betas)[0]
    assert middle == pytest.approx(1) if schedule == "linear" else middle > 5


def test_an_images_chains_are_its_own() -> None:
    """Another batch of images changes no draw."""
    whole = Draws([3, 5, 9], chains=2, latent=4, seed=1, stream=ANNEALING)
    part = Draws([9, 5], chains=2, latent=4, seed=1, stream=ANNEALING)
    for _ in range(2):
        assert np.array_equal(whole.normal()[:, [2, 1]], part.normal())
        assert np.array_equal(whole.uniform()[:, [2, 1]], part.uniform())


def test_one_distribution_is_importance_sampling() -> None:
    model, settings = MODELS[1], Annealing(chains=50, distributions=1)
    sizes = model.sizes(settings)
    found = annealing.up(model.target, sizes=sizes, settings=settings, draws=model.draws(settings, ANNEALING))
    assert np.array_equal(found, model.target(model.draws(settings, ANNEALING).normal())[0])


def test_few_chains_go_together() -> None:
    """A batch takes minutes and not hours, and is then kept; no image's result depends on the others of its batch."""

    class Quadratic:
        def outputs(self, handle: Any, rows: np.ndarray) -> np.ndarray:
            return np.zeros((len(rows), 2))

        def slopes(self, handle: Any, rows: np.ndarray, *, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
            return -np.square(noise).sum(-1), -2 * noise, outputs

    def batches(chains: int, image_batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        settings: Any = {"settings": Annealing(chains=chains, distributions=3, leapfrogs=1), "image_batch": image_batch}
        session: Any = Quadratic()
        return list(annealing.log_weights(session, None, images=np.arange(5), latent=2, seed=0, **settings))

    together, alone = batches(200, 100), batches(200, 1)
    assert [list(images) for images, _ in together] == [[0, 1], [2, 3], [4]]
    for found, expected in zip(np.concatenate([log_w for _, log_w in together], axis=1).T, alone, strict=True):
        np.testing.assert_allclose(found, expected[1][:, 0], rtol=1e-12)
    assert len(batches(1_000, 100)) == 5
    assert [len(images) for images, _ in batches(128, 100)] == [3, 2]  # not 4 and 1, padded to 4
