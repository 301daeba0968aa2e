"""The contract between the harness and a backend: NumPy at the border, keyword arguments, no default.

A backend is a package `backends/NAME`: its module `session` has the functions of `Backend`, its module `probes` those of
`Probes`. Shapes are named [samples, batch, latent]; values are nats per image.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from common.config import Config, Device, Factors, Model
from common.errors import UserError, unknown
from common.parameters import Product, State
from common.world import World

# Backend → the packages that its folder imports.
PACKAGES = {"pytorch": ("torch", "safetensors"), "jax": ("jax", "flax", "optax"), "tensorflow": ("tensorflow", "keras")}
BACKENDS = tuple(PACKAGES)


@dataclass(frozen=True)
class Description:
    """The versions and devices of a backend on this machine."""

    versions: dict[str, str]
    devices: dict[str, str]  # "cpu" or "cuda" → the hardware's name


class Scorer(Protocol):
    """A model's parameters on a device. Nothing is trained: there is no optimizer, and no moving average beside them."""

    def place(self, images: np.ndarray) -> Any:
        """Copy a data set, uint8 [images, pixels], onto the device, once. The handle is valid in this session only.

        Returns when the images are there.
        """

    def log_weights(
        self, handle: Any, indices: np.ndarray, *, samples: range, seed: int, noise: np.ndarray | None
    ) -> np.ndarray:
        """log p(x,z) − log q(z|x), z ~ q(z|x), [samples, batch], for images indices [batch], by the judged parameters.

        The noise is a function of (seed, image, block of NOISE_BLOCK samples), unless given: [samples, batch, latent].
        Raises `ValueError` where `samples` doesn't start at the first sample of a block (see `noise.noise_blocks`).
        """

    def outputs(self, handle: Any, indices: np.ndarray) -> np.ndarray:
        """The encoder's outputs for images indices [batch], [batch, outputs]: loc, s and, for a flow, the context.

        q's Gaussian has the mean loc and the standard deviation softplus(s).
        """

    def slopes(
        self, handle: Any, indices: np.ndarray, *, outputs: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log w = log p(x,z) − log q(z), [samples, batch], and its derivatives, by the judged parameters.

        q and z follow from `outputs` [batch, outputs], whether or not they are the encoder's, and `noise`
        [samples, batch, latent]. The derivatives: ∂log w/∂noise, [samples, batch, latent], and Σ over samples of
        ∂log w/∂outputs, [batch, outputs].
        """

    def inspect(self, handle: Any, indices: np.ndarray, *, noise: np.ndarray, kl_weight: float) -> dict[str, np.ndarray]:
        """Every quantity of the model by name, and `gradient/NAME` of the objective for every parameter.

        A training session inspects the trained parameters, not their moving average. The noise is [samples, batch, latent], or
        with dropout, as in training, [samples, batch, draws].
        """

    def encode(self, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """z ~ q(z|x), [samples, batch, latent], through the whole posterior (a flow's blocks too), by the judged parameters.

        For images [batch, pixels] and standard normal noise [samples, batch, latent].
        """

    def noise_of(self, images: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """The noise that `encode` takes to these latents; both are [samples, batch, latent]. Sequential in a flow's latents."""

    def prior(self, noise: np.ndarray) -> np.ndarray:
        """z ~ p(z), [batch, latent], by the judged parameters, from standard normal noise [batch, latent].

        The noise itself, or with a flow u = f(z) the z where f is the noise: block by block and latent by latent.
        """

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """p(x = 1|z), [batch, pixels], for latents [batch, latent], by the judged parameters."""

    def export(self, file: Path) -> None:
        """Write the judged parameters in the framework's own format; the file's name ends in the backend's EXPORT_SUFFIX."""

    def synchronize(self) -> None:
        """Return when the device is idle."""


class Session(Scorer, Protocol):
    """A model in training. Its judged parameters are the moving average where the config has one, else the trained ones."""

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

        indices [steps, batch], learning_rates [steps], kl_weights [steps]. The noise is drawn on the device, a function of
        (seed, step), unless given: [steps, samples, batch, draws]. Returns when the device is idle.

        `draws` is `parameters.noise_size`: z's draws and, with dropout, one for each unit of `parameters.droppable`, which is
        dropped where its draw is below `noise.dropped_below`. The encoder's are those of the first sample. No other call drops.

        On several devices, every process calls this with the same arguments, those of the whole batch; rank r takes the rows
        and the noise of the r-th equal part. One message a step makes the means over the devices of gradient, objective and
        ELBO; then every process takes the same step. All other calls, `state` too, are a process's own.
        """

    def state(self) -> State:
        """The portable state as it is now, in arrays of its own: no later step changes them."""


class Backend(Protocol):
    """The functions of the module `backends.NAME.session`.

    The config says model, device, dtype and precision. With precision "bfloat16", each layer of the encoder, the decoder and
    MADE rounds its input, weights and bias to bfloat16, sums their products in float32 and returns bfloat16; a network's output
    is cast back to the dtype. A convolution's product is rounded before its bias is added, and after. Everything else is
    computed in the dtype: moments, z, densities, the objective. With "tf32" the device rounds the factors of float32 products
    and convolutions; a process can't have sessions with and without it: see common/tf32.py.
    """

    EXPORT_SUFFIX: str  # of the files of `Scorer.export`

    def describe(self) -> Description:
        """The framework's versions, and the devices that it has here. Raises `UserError` where there is none."""

    def create(self, config: Config, state: State) -> Session:
        """A session that trains, from this portable state.

        Raises as `score`, and `UserError` where the config asks for another number of devices than processes have joined, or,
        where none has, for more than this process has.
        """

    def score(self, config: Config, parameters: State) -> Scorer:
        """A session that judges these parameters (name → array), whatever the config's moving average.

        Raises `UserError` for a device that isn't here, a network that the backend lacks, and where this process has a session
        with the other setting of TF32; `ValueError` for a network with other parameters than `parameters.shapes` has.
        """

    def join(self, world: World, *, device: Device) -> None:
        """Join the processes of a run on several devices, before any session; returns when all have joined."""

    def leave(self) -> None:
        """Leave them: every process does, after its last `train`. What only one process does comes after this."""


class Probes(Protocol):
    """The functions of the module `backends.NAME.probes`: what is there only to be timed or counted.

    A launch function does its work `repeats` times and returns when the device is idle.
    """

    def products(self, *, products: list[Product], device: Device, dtype: Factors) -> Callable[[int], None]:
        """The launch function of these products, with factors of this dtype and sums of at least float32."""

    def copy(self, *, size: int, device: Device) -> Callable[[int], None]:
        """The launch function of x + 1 over float32: it reads `size` bytes of the device's memory and writes as many."""

    def gradient(
        self, session: Session, handle: Any, indices: np.ndarray, *, noise: np.ndarray, kl_weight: float
    ) -> Callable[[int], None]:
        """The launch function of the objective's gradient, by a session of this backend, without the optimizer's update.

        Arguments as those of `Scorer.inspect`, which copies every quantity to the host.
        """

    def device_peak(self, device: Device) -> int | None:
        """The most bytes of the device's own memory that this process has had. None where the memory is the host's."""

    def programs_compiled(self) -> int | None:
        """Programs compiled in this process because the on-disk cache missed; None where nothing uses that cache."""

    def uncompiled(self) -> str | None:
        """Why work of this process that the settings compile ran uncompiled; None where all of it was compiled."""

    def product_library(self) -> str | None:
        """The library of the large products of float32 on a CPU, where it isn't the framework's own choice; else None."""


DEFAULT_PROBES: dict[str, Callable[..., Any]] = {
    "device_peak": lambda device: None,
    "programs_compiled": lambda: None,
    "uncompiled": lambda: None,
    "product_library": lambda: None,
}


def network(networks: Mapping[str, tuple[Any, Any]], model: Model, *, backend: str) -> tuple[Any, Any]:
    """The backend's classes of the encoder and the decoder.

    Either is made from the model and the numbers of inputs and outputs. Raises `UserError` where the backend hasn't written the
    network.
    """
    if model.network not in networks:
        raise UserError(f"Backend '{backend}' has no network '{model.network}', only {', '.join(networks)}; choose another.")
    return networks[model.network]


def lacks(name: str) -> str | None:
    """The first of the backend's packages that isn't installed; None where all are. Nothing is imported."""
    return next((package for package in PACKAGES[name] if importlib.util.find_spec(package) is None), None)


def load(name: str) -> Backend:
    """Import the backend of this name.

    Raises `UserError` for a name that isn't in BACKENDS, and for a backend whose framework can't be imported.
    """
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    module = f"backends.{name}.session"
    if sys.modules.get(module):
        return cast(Backend, sys.modules[module])
    try:
        with _uncollected():
            return cast(Backend, importlib.import_module(module))
    except UserError:
        raise
    except Exception as error:  # an ImportError, or any error of versions that don't fit one another
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        if package := lacks(name):
            reason = f"no package {package}"
        raise UserError(
            f"Backend '{name}' is unavailable ({reason}); install environments/{name}-cpu.txt or {name}-cuda.txt."
        ) from error


def probes(name: str) -> Probes:
    """The probes of the backend of this name, with DEFAULT_PROBES where it lacks one. Raises `UserError` as `load` does."""
    load(name)
    module = importlib.import_module(f"backends.{name}.probes")
    for function, default in DEFAULT_PROBES.items():
        vars(module).setdefault(function, default)
    return cast(Probes, module)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector during an import: it would rescan objects that live for ever.

    Then freeze these objects, so that the collector skips them while the framework compiles.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
