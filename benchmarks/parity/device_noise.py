"""The last rung of the ladder: the noise that a backend draws itself, read out of its log weights draw by draw.

Two backends never draw the same numbers, so that each is held against the contract:

- training noise is a function of (seed, step), with a draw of its own for each sample and each image of the minibatch;
- evaluation noise is a function of (seed, image, block of samples), whatever the call, with a draw of its own for each sample;
- training and evaluation have no draw in common.

A draw that ignores one of these comes twice.
"""

from __future__ import annotations

import itertools

import numpy as np

from common.config import Config
from common.noise import NOISE_BLOCK
from common.parameters import State, fresh_state, initial_parameters
from common.protocol import Backend

STEPS, SAMPLES, BATCH = 32, 2, 2  # of a call of `train`
IMAGES = 20  # of a call of `log_weights`, by two blocks of samples


def faults(backend: Backend, config: Config) -> State:
    """Fault of the backend's own noise in float64 → how often it occurs, which must be 0.

    A draw ε [latent] is identified by Σε/√latent, a standard normal number.
    """
    config = config.replace(objective_samples=SAMPLES, ema_decay=0)
    latent = config.model.latent_size
    silent = -config.model.pixels * np.log(2)  # log w of a silent image
    state = fresh_state(telling(config), optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    session = backend.create(config, state)
    images = np.zeros((IMAGES + 1, config.model.pixels), np.uint8)
    images[:IMAGES, 0] = 1  # the last is silent
    handle = session.place(images)

    def draws(log_w: np.ndarray) -> np.ndarray:
        """Σε/√latent from log weights of images that aren't silent."""
        return (silent - latent / 2 - log_w) / np.sqrt(latent)

    def trained(seed: int, first_step: int, place: int) -> np.ndarray:
        """Both samples' draws for the image at this place of the minibatch, [SAMPLES, STEPS]; the other images are silent.

        From log weights m ± d: the ELBO gives their mean m, the objective their log mean exp m + log cosh d.
        """
        rows = np.full((STEPS, BATCH), IMAGES, np.int32)
        rows[:, place] = 0
        rates, weights = np.zeros(STEPS), np.ones(STEPS)
        objective, elbo = session.train(
            handle, rows, first_step=first_step, learning_rates=rates, kl_weights=weights, seed=seed, noise=None
        )
        m, d = BATCH * (elbo - silent) + silent, np.arccosh(np.exp(np.maximum(BATCH * (objective - elbo), 0)))
        return draws(np.stack([m - d, m + d]))

    def evaluated(seed: int, rows: np.ndarray, samples: range) -> np.ndarray:
        return draws(session.log_weights(handle, rows, samples=samples, seed=seed, noise=None))

    calls = [(0, 0), (0, STEPS), (1, 0)]  # seed, first step
    training = np.array([trained(*call, place) for call, place in itertools.product(calls, range(BATCH))])
    between = trained(0, STEPS // 2, 0)  # steps of one call's second half, and of the next call's first half
    same_steps = np.concatenate([training[0], training[BATCH]], axis=-1)[:, STEPS // 2 : -STEPS // 2]
    rows, samples = np.arange(IMAGES, dtype=np.int32), range(2 * NOISE_BLOCK)
    evaluation = np.array([evaluated(seed, rows, samples) for seed in (0, 1)])
    reversed_rows = evaluated(0, rows[::-1].copy(), range(NOISE_BLOCK, 3 * NOISE_BLOCK))[:, ::-1]
    counts = {
        "training: samples with one draw": np.sum(np.abs(training[:, 0] - training[:, 1]) < 1e-5),
        "training: draws that come twice": repeats(training),
        "training: not standard normal": not_standard_normal(training),
        "training: another call, other draws": np.sum(np.abs(between - same_steps) > 1e-5),
        "evaluation: draws that come twice": repeats(evaluation, reversed_rows[NOISE_BLOCK:]),
        "evaluation: not standard normal": not_standard_normal(evaluation),
        "evaluation: another call, other draws": np.sum(
            np.abs(reversed_rows[:NOISE_BLOCK] - evaluation[0, NOISE_BLOCK:]) > 1e-9
        ),
        "training and evaluation: draws in both": repeats(training, evaluation) - repeats(training) - repeats(evaluation),
    }
    return {name: np.asarray(int(count)) for name, count in counts.items()}


def telling(config: Config) -> State:
    """Parameters whose log weights tell the noise: q(z|x) = N(x₀, I), x₀ the image's first pixel, and p(x|z) = 2^−pixels.

    An image with x₀ = 1 has log w = −pixels·log 2 − Σ(ε + 1/2), the sum over latents. An image with x₀ = 0 is silent: it has
    log w = −pixels·log 2, whatever its noise.
    """
    latent = config.model.latent_size
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(config.model.pixels))
    parameters = {name: np.zeros_like(value) for name, value in initial.items()}
    parameters["encoder.first.weight"][0, 0] = parameters["encoder.second.weight"][0, 0] = 1
    parameters["encoder.out.weight"][0, :latent] = 1  # loc
    parameters["encoder.out.bias"][latent:] = np.log(np.e - 1)  # softplus of it is 1
    return parameters


def repeats(*draws: np.ndarray) -> int:
    """Number of draws that equal an earlier one to 8 decimals, as a few thousand independent draws hardly ever do."""
    every = np.concatenate([each.ravel() for each in draws])
    return every.size - len(np.unique(every.round(8)))


def not_standard_normal(draws: np.ndarray) -> bool:
    """Whether the draws' mean or variance is more than five standard errors from that of N(0, 1)."""
    n = draws.size
    return bool(abs(draws.mean()) > 5 / np.sqrt(n) or abs(draws.var() - 1) > 5 * np.sqrt(2 / n))
