"""Autoregressive degrees and masks of a MADE with two hidden layers (Germain et al. 2015, section 3)."""

from __future__ import annotations

import numpy as np


def degrees(*, latent_size: int, hidden_size: int) -> np.ndarray:
    """Degrees ⌊i·latent/hidden⌋ of hidden units i = 0 … hidden−1, [hidden].

    A unit of degree d sees the latents 1 … d. A unit of degree 0 sees only the context: through it the first latent depends on
    the image.
    """
    return np.arange(hidden_size) * latent_size // hidden_size


def made_masks(*, latent_size: int, hidden_size: int) -> dict[str, np.ndarray]:
    """0/1 masks of the three layers, [in, out] each, by the layers' names; latents are numbered from 1.

    first [latent, hidden]: in ≤ hidden; second [hidden, hidden]: hidden ≤ hidden; out [hidden, 2·latent]: hidden < out,
    for m, then s.
    """
    latents = np.arange(1, latent_size + 1)
    hidden = degrees(latent_size=latent_size, hidden_size=hidden_size)
    out = np.concatenate([latents, latents])
    return {
        "first": (latents[:, None] <= hidden[None, :]).astype(np.uint8),
        "second": (hidden[:, None] <= hidden[None, :]).astype(np.uint8),
        "out": (hidden[:, None] < out[None, :]).astype(np.uint8),
    }
