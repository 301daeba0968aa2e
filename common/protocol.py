"""The contract between the harness and a backend: NumPy at the border, keyword arguments, no default.

A backend is a package `backends/NAME` whose module `session` offers the functions of `Backend`. Shapes are named
[samples, batch, latent]; values are nats per image.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from common.config import Device, Dtype, Factors, Model, Optimizer, Precision, Training
from common.errors import UserError
from common.parameters import State

BACKENDS = ("pytorch", "jax", "tensorflow")


@dataclass(frozen=True)
class Description:
    """Which versions and devices a backend has here."""

    versions: dict[str, str]
    devices: dict[str, str]  # "cpu" or "cuda" → the hardware's name


class Session(Protocol):
    """A model with its optimizer on a device."""

    def place(self, images: np.ndarray) -> Any:
        """A data set, uint8 [images, pixels], onto the device, once. The handle is for this session only.

        Returns when the images are there.
        """

    def train(
        self,
        handle: Any,
        indices: np.ndarray,
        *,
        first_step: int,
        learning_rates: np.ndarray,
        kl_weights: np.ndarray,
        seed: int,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A chunk of steps: (objective [steps], elbo [steps]), each the minibatch's mean before its step; the ELBO has β = 1.

        indices [steps, batch], learning_rates [steps], kl_weights [steps]. Noise is drawn on the device, a function of
        (seed, step), unless given: [steps, samples, batch, latent]. Returns when the device is idle.
        """

    def log_weights(
        self, handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: np.ndarray | None
    ) -> np.ndarray:
        """log p(x,z) − log q(z|x), z ~ q(z|x), [samples, batch], for images indices [batch], by the judged parameters.

        Noise is a function of (seed, image, block of NOISE_BLOCK samples), unless given: [samples, batch, latent].
        `samples` opens a block (see `noise.noise_blocks`).
        """

    def inspect(self, handle: Any, indices: np.ndarray, *, noise: np.ndarray, kl_weight: float) -> dict[str, np.ndarray]:
        """Every quantity of the model by name, and `gradient/NAME` of the objective for every parameter."""

    def gradient(self, handle: Any, indices: np.ndarray, *, noise: np.ndarray, kl_weight: float) -> Callable[[int], None]:
        """A function that computes the objective's gradient `repeats` times, and returns when the device is idle.

        It's there to be timed. `train` can't stand in for it, since at a learning rate of 0 it still updates; nor can
        `inspect`, which copies every quantity to the host and isn't compiled.
        """

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(loc, scale) of the Gaussian base of q(z|x), [batch, latent] each, for images [batch, pixels]."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """p(x = 1|z), [batch, pixels], for latents [batch, latent]."""

    def export(self, file: Path) -> None:
        """Write the judged parameters in the framework's own format; the file's name ends in the backend's EXPORT_SUFFIX."""

    def state(self) -> State:
        """The portable state as it is now."""

    def synchronize(self) -> None:
        """Return when the device is idle."""


class Backend(Protocol):
    """What `backends.NAME.session` offers."""

    EXPORT_SUFFIX: str  # of the files of `Session.export`

    def describe(self) -> Description: ...

    def programs_compiled(self) -> int | None:
        """How many programs this process has compiled since `cache.programs()` lacked them; None where nothing uses it."""

    def create(
        self,
        model: Model,
        state: State,
        *,
        optimizer: Optimizer,
        training: Training,
        device: Device,
        dtype: Dtype,
        precision: Precision,
    ) -> Session:
        """With precision "bfloat16", each layer of the encoder, the decoder and MADE rounds its input, weights and bias to
        bfloat16, sums their products in float32 and gives bfloat16; a network's output is cast back to the dtype. All else is
        the dtype's, whatever the precision: parameters, moments, z, densities, the objective. With "tf32" the device rounds the
        factors of float32 products, and a process that has one such session can have none without: see common/tf32.py.
        """

    def probe(self, *, products: list[tuple[int, int, int]], device: Device, dtype: Factors) -> Callable[[int], None]:
        """A function that runs these products, [m, k]·[k, n] each, `repeats` times, and returns when the device is idle.

        Factors are of this dtype, sums of at least float32.
        """

    def copy(self, *, size: int, device: Device) -> Callable[[int], None]:
        """A function that reads `size` bytes of the device's memory and writes as many, `repeats` times, x + 1 of each float32,
        and returns when the device is idle.
        """

    def device_peak(self, device: Device) -> int | None:
        """Bytes of the device's own memory: the most that this process has had of it so far. None where that's the host's."""


def load(name: str) -> Backend:
    """The backend of that name, imported now.

    Raises `UserError` for a name that isn't in BACKENDS, or a backend whose framework can't be imported.
    """
    if name not in BACKENDS:
        raise UserError(f"There is no backend '{name}'; choose from {', '.join(BACKENDS)}.")
    module = f"backends.{name}.session"
    if sys.modules.get(module):
        return cast(Backend, sys.modules[module])
    try:
        with _uncollected():
            return cast(Backend, importlib.import_module(module))
    except UserError:
        raise
    except Exception as error:  # an ImportError, or whatever versions that don't fit one another come to
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"Backend '{name}' is unavailable ({reason}); install environments/{name}-cpu.txt or {name}-cuda.txt."
        ) from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would go through what an import makes again and again, though all of it stays.

    Nor will it later, when the framework's compiler makes as many objects: what there is by then is frozen.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
