"""Grey images → binary images, once: everyone who binarizes a file by the same method gets the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from common.errors import UserError, unknown
from common.image_files import SPLITS, Splits
from common.noise import BINARIZATION, generator

Binarize = Literal["threshold", "bernoulli"]
METHODS: tuple[Binarize, ...] = get_args(Binarize)

BINARIZE_SEED = 0  # not a run's seed: runs of several seeds train on the same bits


def is_binary(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def white(dtype: np.dtype) -> int:
    """The value of white: 255 for integers, 1 for floats and booleans. The type decides, not the brightest pixel."""
    return 255 if dtype.kind in "iu" else 1


def binary(splits: Splits, *, method: str | None, path: Path) -> Splits:
    """The splits [images, pixels] as uint8 of 0 and 1; `path` names the file in messages.

    Without a method the images must be binary. threshold: a pixel is 1 where grey > white/2. bernoulli: a pixel is 1 with
    probability grey/white: where u < grey/white, u uniform on [0, 1), drawn image by image from a stream for each split.

    Raises `UserError` for another method, grey images without one, binary images with one, and values outside 0 … white.
    """
    if method not in (None, *METHODS):
        raise unknown("way to binarize", str(method), METHODS)
    grey = [split for split in SPLITS if not is_binary(splits[split])]
    if method is None:
        if grey:
            raise UserError(
                f"'{grey[0]}' of {path} has values other than 0 and 1; `run` has --binarize threshold and --binarize bernoulli "
                "for grey images."
            )
        return {split: splits[split].astype(np.uint8) for split in SPLITS}
    if not grey:
        raise UserError(f"The images of {path} are binary already; --binarize is for grey images.")
    for split in SPLITS:
        low, high, top = splits[split].min(), splits[split].max(), white(splits[split].dtype)
        if not (low >= 0 and high <= top):  # NaN too
            kind = "integers" if top == 255 else "floats"
            raise UserError(f"'{split}' of {path} has values from {low} to {high}; grey {kind} must be from 0 to {top}.")
    if method == "threshold":
        return {split: (splits[split] > white(splits[split].dtype) / 2).astype(np.uint8) for split in SPLITS}
    return {split: _drawn(splits[split], position=position) for position, split in enumerate(SPLITS)}


def _drawn(grey: np.ndarray, *, position: int) -> np.ndarray:
    draws, top = generator(BINARIZE_SEED, BINARIZATION, position), white(grey.dtype)
    images = np.empty(grey.shape, np.uint8)
    for i, image in enumerate(grey):  # all draws at once would be eight times the images' bytes
        images[i] = draws.random(grey.shape[1]) < image.astype(np.float64) / top
    return images
