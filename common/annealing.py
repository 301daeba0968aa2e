"""log p(x) by annealed importance sampling (Neal 2001) with Hamiltonian Monte Carlo (Wu et al. 2017), in q's noise.

z = T(ε) with ε ~ N(0, I) is a draw of q(z|x), and log w(ε) = log p(x, T(ε)) − log q(T(ε)|x). Chains go through

    π_β(ε) ∝ N(ε; 0, I)·w(ε)^β,  β from 0 to 1:

from the encoder's posterior to the true one, whose constant is ∫ N(ε; 0, I)·w(ε) dε = p(x). In the noise nothing is sequential
in the latents, with a flow neither. Log weights are [chains, batch], points [chains, batch, latent], nats per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.config import Annealing
from common.noise import ANNEALING, ANNEALING_SIZES, generator
from common.protocol import Scorer

# Points → log w, [chains, batch], and ∂log w/∂ε, [chains, batch, latent].
Target = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

STEEPNESS = 4.0  # of the sigmoid schedule (Grosse et al. 2015, section 4)
ACCEPTED = 0.65  # the share of proposals that the sizes of the leapfrog steps are tuned to
TOGETHER = 512  # chains of a batch at most: results are kept after each batch
FIRST_SIZE, GAIN, SETTLING, MOST_TUNED = 0.1, 0.2, 20, 100  # of the tuning: see `step_sizes`


class Draws:
    """The random numbers of each image's chains, a function of (seed, stream, image): batching changes nothing."""

    def __init__(self, images: Sequence[int] | np.ndarray, *, chains: int, latent: int, seed: int, stream: str):
        self.generators = [generator(seed, stream, int(image)) for image in images]
        self.chains, self.latent = chains, latent

    def normal(self) -> np.ndarray:
        """[chains, batch, latent]."""
        return np.stack([each.standard_normal((self.chains, self.latent)) for each in self.generators], axis=1)

    def uniform(self) -> np.ndarray:
        """[chains, batch]."""
        return np.stack([each.random(self.chains) for each in self.generators], axis=1)


def schedule(settings: Annealing, distributions: int) -> np.ndarray:
    """β from 0 to 1, [distributions + 1]: even, t = i/distributions, or σ(STEEPNESS·(2t − 1)) shifted and scaled to 0 … 1."""
    even = np.linspace(0, 1, distributions + 1)
    if settings.schedule == "linear":
        return even
    curve = 1 / (1 + np.exp(-STEEPNESS * (2 * even - 1)))
    return np.asarray((curve - curve[0]) / (curve[-1] - curve[0]))


@dataclass(frozen=True)
class Chains:
    """Points, and the target's log w and slope ∂log w/∂ε there."""

    points: np.ndarray
    log_w: np.ndarray
    slope: np.ndarray

    @classmethod
    def at(cls, points: np.ndarray, target: Target) -> Chains:
        log_w, slope = target(points)
        return cls(points=points, log_w=log_w.astype(np.float64), slope=slope.astype(np.float64))

    def log_density(self, beta: float) -> np.ndarray:
        """log π_β up to a constant, [chains, batch]."""
        return np.asarray(beta * self.log_w - 0.5 * np.square(self.points).sum(-1))


def moved(
    chains: Chains, target: Target, *, beta: float, size: np.ndarray, leapfrogs: int, draws: Draws
) -> tuple[Chains, np.ndarray]:
    """The chains after one Hamiltonian move that leaves π_β as it is; each proposal's chance of acceptance, [chains, batch].

    `size` of the leapfrog steps, [batch]: given, and no function of these chains, or π_β would not be left as it is.
    """
    size = size[:, None]
    momentum = draws.normal()
    found = chains
    with np.errstate(over="ignore", invalid="ignore"):  # a trajectory that leaves the finite numbers is refused below
        velocity = momentum + 0.5 * size * (beta * found.slope - found.points)
        for i in range(leapfrogs):
            found = Chains.at(found.points + size * velocity, target)
            weight = 1.0 if i < leapfrogs - 1 else 0.5
            velocity = velocity + weight * size * (beta * found.slope - found.points)
        energy = found.log_density(beta) - 0.5 * np.square(velocity).sum(-1)
        gain = energy - (chains.log_density(beta) - 0.5 * np.square(momentum).sum(-1))
        chance = np.where(np.isfinite(gain), np.exp(np.minimum(gain, 0)), 0.0)
    taken = draws.uniform() < chance
    return Chains(
        points=np.where(taken[..., None], found.points, chains.points),
        log_w=np.where(taken, found.log_w, chains.log_w),
        slope=np.where(taken[..., None], found.slope, chains.slope),
    ), chance


def step_sizes(target: Target, *, settings: Annealing, draws: Draws) -> np.ndarray:
    """The sizes of the leapfrog steps of each distribution between 0 and 1, [distributions − 1, batch].

    Tuned on chains of their own, which count for nothing else: an image's log size rises by GAIN·(share accepted − ACCEPTED)
    after each move, over SETTLING moves at the first distribution and then at MOST_TUNED distributions at most.
    """
    tuned = min(settings.distributions, MOST_TUNED)
    betas = schedule(settings, tuned)[1:-1]
    if not len(betas):
        return np.empty((0, len(draws.generators)))
    size = np.full(len(draws.generators), FIRST_SIZE)
    chains, sizes = Chains.at(draws.normal(), target), []
    for beta in [*np.repeat(betas[0], SETTLING), *betas]:
        chains, chance = moved(chains, target, beta=float(beta), size=size, leapfrogs=settings.leapfrogs, draws=draws)
        size = size * np.exp(GAIN * (chance.mean(0) - ACCEPTED))
        sizes.append(size)
    own = np.arange(1, tuned) / tuned
    wanted = np.arange(1, settings.distributions) / settings.distributions
    log_sizes = np.log(sizes[SETTLING:])
    return np.exp(np.stack([np.interp(wanted, own, column) for column in log_sizes.T], axis=1))


def up(target: Target, *, sizes: np.ndarray, settings: Annealing, draws: Draws) -> np.ndarray:
    """Log weights [chains, batch] of chains from β = 0 to 1: the mean weight's expectation is p(x) (Neal 2001, eq. 11).

    Σ over i of (β[i + 1] − β[i])·log w(εᵢ): ε₀ ~ N(0, I), and a move that leaves π of β[i] as it is leads from εᵢ₋₁ to εᵢ.
    """
    betas = schedule(settings, settings.distributions)
    chains = Chains.at(draws.normal(), target)
    total = (betas[1] - betas[0]) * chains.log_w
    for i, size in enumerate(sizes, 1):
        chains, _ = moved(chains, target, beta=betas[i], size=size, leapfrogs=settings.leapfrogs, draws=draws)
        total = total + (betas[i + 1] - betas[i]) * chains.log_w
    return total


def down(target: Target, start: np.ndarray, *, sizes: np.ndarray, settings: Annealing, draws: Draws) -> np.ndarray:
    """The same sum over chains from β = 1 to 0, which begin at `start` [batch, latent], a draw of the true posterior.

    The mean of 1/weight has the expectation 1/p(x): −log of this mean is an upper bound of log p(x) in expectation, as log of
    `up`'s mean weight is a lower one (bidirectional Monte Carlo, Grosse et al. 2015). Only for images that the model itself has
    drawn is a draw of their posterior known.
    """
    betas = schedule(settings, settings.distributions)
    chains = Chains.at(np.broadcast_to(start, (draws.chains, *start.shape)).astype(np.float64), target)
    total = (betas[-1] - betas[-2]) * chains.log_w
    for i in range(len(sizes), 0, -1):
        chains, _ = moved(chains, target, beta=betas[i], size=sizes[i - 1], leapfrogs=settings.leapfrogs, draws=draws)
        total = total + (betas[i] - betas[i - 1]) * chains.log_w
    return total


def target_of(session: Scorer, handle: Any, rows: np.ndarray) -> Target:
    """log w of the session's model for images rows [batch], by noise; the encoder runs once."""
    outputs = session.outputs(handle, rows)

    def target(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_w, by_noise, _ = session.slopes(handle, rows, outputs=outputs, noise=points.astype(outputs.dtype))
        return log_w, by_noise

    return target


def log_weights(
    session: Scorer, handle: Any, *, images: np.ndarray, latent: int, settings: Annealing, seed: int, image_batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images, log weights [chains, batch] of `up`), batch by batch; every batch has the first's shape, as in `stream`."""
    options: dict[str, Any] = {"chains": settings.chains, "latent": latent, "seed": seed}
    most = max(1, min(image_batch, TOGETHER // settings.chains))
    batches = max(1, math.ceil(len(images) / most))  # all images may be done
    image_batch = max(1, math.ceil(len(images) / batches))  # batches of about one size need little padding
    for first in range(0, len(images), image_batch):
        batch = images[first : first + image_batch]
        rows = np.pad(batch, (0, image_batch - len(batch)), mode="edge")
        target = target_of(session, handle, rows)
        sizes = step_sizes(target, settings=settings, draws=Draws(rows, stream=ANNEALING_SIZES, **options))
        found = up(target, sizes=sizes, settings=settings, draws=Draws(rows, stream=ANNEALING, **options))
        yield batch, found[:, : len(batch)]
