"""Annealed importance sampling of a checkpoint's images, kept batch by batch: the same command again goes on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import annealing, estimators
from common.config import Annealing, Config
from common.errors import UserError
from common.files import write_bytes
from common.image_files import DAMAGED_NUMPY
from common.protocol import Scorer

ARRAYS = ("image", "log_px", "error", "ess")


@dataclass(frozen=True)
class Annealed:
    """Of each image, [images]: its index, log p(x), its Monte Carlo standard error, the chains' effective sample size.

    The error of a single chain is NaN: unknown.
    """

    image: np.ndarray
    log_px: np.ndarray
    error: np.ndarray
    ess: np.ndarray

    @property
    def mc_error(self) -> float:
        """The standard error of the mean log p(x) over other draws of the chains."""
        return float(np.sqrt(np.square(self.error).sum()) / len(self.image))


def cost(settings: Annealing, *, images: int) -> str:
    """How much is computed, in words."""
    tuned = min(settings.distributions, annealing.MOST_TUNED) + annealing.SETTLING
    gradients = images * settings.chains * settings.leapfrogs * (settings.distributions + tuned)
    return (
        f"{images:,} images × {settings.chains} chains × {settings.distributions:,} distributions × {settings.leapfrogs} "
        f"leapfrog steps, and the tuning: {gradients / 1e6:,.1f} million gradients of the decoder"
    )


def kept(checkpoint: Path, **of: Any) -> Path:
    """The file of results beside a checkpoint; its name has a piece of the hash of `of`, which says what they are of."""
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return checkpoint.with_name(f"{checkpoint.stem}.ais-{digest[:10]}.npz")


def read(path: Path) -> dict[str, np.ndarray]:
    """The results in the file, [images done] each; none where there is no file. Raises `UserError` for a damaged one."""
    if not path.exists():
        return {name: np.empty(0) for name in ARRAYS}
    try:
        stored = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        found = {name: np.asarray(stored[name]) for name in ARRAYS}
    except (*DAMAGED_NUMPY, OSError, ValueError, LookupError) as error:
        raise UserError(f"The results {path} can't be read ({error}); remove the file, and they are computed anew.") from error
    alike = all(array.shape == found["image"].shape == (array.size,) and array.dtype.kind in "if" for array in found.values())
    if not alike or not all(np.isfinite(found[name]).all() for name in ARRAYS if name != "error"):
        raise UserError(f"The results {path} aren't one number an image; remove the file, and they are computed anew.")
    return found


def of_images(
    session: Scorer,
    handle: Any,
    *,
    images: np.ndarray,
    config: Config,
    settings: Annealing,
    seed: int,
    file: Path,
    report: Callable[[int], None],
) -> Annealed:
    """log p(x) of images indices [images]; each batch's results are in `file` before the next begins.

    Raises `UserError` where an estimate isn't a finite number, and where the file can't be read or written.
    """
    found = read(file)
    done = np.isin(images, found["image"])
    report(int(done.sum()))
    batches = annealing.log_weights(
        session,
        handle,
        images=images[~done],
        latent=config.model.latent_size,
        settings=settings,
        seed=seed,
        image_batch=config.evaluation.image_batch,
    )
    for batch, log_w in batches:
        of_batch = {
            "image": batch,
            "log_px": estimators.log_mean_exp(log_w),
            "error": estimators.log_mean_exp_error(log_w),
            "ess": estimators.effective_sample_size(log_w),
        }
        if not np.isfinite(of_batch["log_px"]).all():
            raise UserError("The model has diverged: log p(x) by annealing isn't a finite number.")
        found = {name: np.concatenate([found[name], of_batch[name]]) for name in ARRAYS}
        memory = io.BytesIO()
        np.savez_compressed(memory, allow_pickle=False, **found)
        write_bytes(file, memory.getvalue())
        report(len(batch))
    place = {int(image): i for i, image in enumerate(found["image"])}
    order = [place[int(image)] for image in images]
    return Annealed(**{name: found[name][order] for name in ARRAYS})
