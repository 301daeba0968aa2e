"""Learning rates and KL weights, as arrays over steps that count from 0."""

from __future__ import annotations

import numpy as np

from common.config import Optimizer, Training


def learning_rates(optimizer: Optimizer, *, total_steps: int, first_step: int, steps: int) -> np.ndarray:
    """float64 [steps]. Cosine (Loshchilov and Hutter 2017, eq. 5, no restarts): lr_t = lr·½(1 + cos(πt/T)); constant: lr.

    With W steps of warm-up, either is multiplied by min(1, (t + 1)/W) (Goyal et al. 2017, section 2.2).
    """
    t = np.arange(first_step, first_step + steps)
    rates = np.full(steps, optimizer.learning_rate)
    if optimizer.schedule == "cosine":
        rates = optimizer.learning_rate * 0.5 * (1 + np.cos(np.pi * t / total_steps))
    return rates * np.minimum(1.0, (t + 1) / max(optimizer.learning_rate_warm_up, 1))


def kl_weights(training: Training, *, first_step: int, steps: int) -> np.ndarray:
    """β_t = min(1, (t + 1)/warm_up), float64 [steps]; 1 throughout without warm-up."""
    t = np.arange(first_step, first_step + steps)
    return np.minimum(1.0, (t + 1) / max(training.warm_up, 1))
