"""q(z|x) optimised for one image at a time: the encoder's outputs are free, all else stays (Cremer et al. 2018, section 5.2).

What the ELBO gains is the amortization gap; what log p(x) is still above it, the approximation gap of the family.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from common.annealing import Draws
from common.noise import GAPS, LOCAL_POSTERIOR
from common.protocol import Scorer

# Adam (Kingma and Ba 2015), with a rate that falls to 0 along a cosine.
RATE, BETA1, BETA2, EPSILON = 0.02, 0.9, 0.99, 1e-8
SAMPLES = 10  # of the ELBO's gradient, a step
JUDGED = 25  # samples a call


def optimised(session: Scorer, handle: Any, rows: np.ndarray, *, latent: int, steps: int, seed: int) -> np.ndarray:
    """The outputs that maximise each image's ELBO, [batch, outputs], from the encoder's, for images rows [batch]."""
    start = session.outputs(handle, rows)
    outputs, first, second = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    draws = Draws(rows, chains=SAMPLES, latent=latent, seed=seed, stream=LOCAL_POSTERIOR)
    for t in range(steps):
        given = {"outputs": outputs.astype(start.dtype), "noise": draws.normal().astype(start.dtype)}
        _, _, by_outputs = session.slopes(handle, rows, **given)
        slope = by_outputs / SAMPLES
        first += (1 - BETA1) * (slope - first)
        second += (1 - BETA2) * (np.square(slope) - second)
        rate = RATE * 0.5 * (1 + np.cos(np.pi * t / steps))
        scale = np.sqrt(second / (1 - BETA2 ** (t + 1))) + EPSILON
        outputs += rate * first / (1 - BETA1 ** (t + 1)) / scale
    return outputs.astype(start.dtype)


def elbo(
    session: Scorer, handle: Any, rows: np.ndarray, *, outputs: np.ndarray, latent: int, samples: int, seed: int
) -> np.ndarray:
    """The ELBO of each image's q of these outputs, [batch]: mean log w of samples on the same noise for any outputs."""
    draws = Draws(rows, chains=JUDGED, latent=latent, seed=seed, stream=GAPS)
    blocks = [
        session.slopes(handle, rows, outputs=outputs, noise=draws.normal().astype(outputs.dtype))[0].astype(np.float64)
        for _ in range(-(-samples // JUDGED))
    ]
    return np.asarray(np.concatenate(blocks)[:samples].mean(axis=0))
