"""What is timed: one call of the contract each, at `standard`'s sizes or others, with the least that its step must do.

The images are random, a data set's size and no download: no time here depends on what is in them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import environment, floor
from benchmarks.harness.presets import STANDARD
from common import parameters, protocol
from common.clock import timed
from common.config import Config, Device, Precision, Variational, factors
from common.data import minibatches
from common.noise import NOISE_BLOCK

FAMILIES: tuple[Variational, ...] = ("mean-field", "flow")
BATCHES = (32, 128, 1024, 8192)
KINDS = ("train", "gradient", "log_weights", "sampling", "placement")

IMAGES = 10_000
ROWS_A_CALL = 2048  # images a timed call, in steps of `batch`: one synchronisation around many steps
SAMPLES = NOISE_BLOCK  # K of the log weights

Products = list[parameters.Product]
Maker = Callable[[], Callable[[int], None]]


@dataclass(frozen=True)
class Case:
    """One thing to time: `work` does `steps` steps of `examples` images each."""

    work: Callable[[], object]
    synchronize: Callable[[], None]
    steps: int
    examples: int
    prepare: Maker  # of `least`

    @functools.cached_property
    def least(self) -> Callable[[int], None]:
        """Does so many steps of what can't be left out, until the device is idle; made when it's first asked for."""
        return self.prepare()

    def call(self) -> None:
        """The work, until the device is idle; what runs before must leave it so."""
        self.work()
        self.synchronize()

    def seconds(self) -> float:
        """Of one call."""
        return timed(self.work, synchronize=self.synchronize)[1]

    def floor_seconds(self) -> float:
        """Of the least work of one call."""
        least = self.least  # compiles, outside the clock
        return timed(lambda: least(self.steps), synchronize=self.synchronize)[1]


def chunk_steps(batch: int) -> int:
    """Steps of a run's chunk; of larger batches as many as its images make."""
    training = STANDARD.training
    return min(training.chunk, max(1, training.chunk * training.batch_size // batch))


class Bench:
    """A session of one backend and family, and its cases; of `standard`'s sizes, or those of `settings`."""

    def __init__(
        self,
        backend: str,
        family: Variational,
        *,
        device: Device,
        precision: Precision = "full",
        settings: Config = STANDARD,
    ):
        self.probes = protocol.probes(backend)
        self.config: Config = settings.replace(variational=family, device=device, precision=precision)
        self.draws = np.random.default_rng(0)
        self.images = (self.draws.integers(256, size=(IMAGES, self.config.model.pixels), dtype=np.uint8) < 33).astype(np.uint8)
        initial = parameters.initial_parameters(
            self.config.model, training=self.config.training, pixel_log_odds=np.full(self.config.model.pixels, -1.9)
        )
        state = parameters.fresh_state(
            initial, optimizer=self.config.optimizer, training=self.config.training, dtype=self.config.dtype
        )
        self.session = protocol.load(backend).create(self.config, state)
        self.handle = self.session.place(self.images)

    def case(self, kind: str, batch: int, *, steps: int | None = None) -> Case:
        """`steps` a call, or those of about ROWS_A_CALL images.

        Raises `KeyError` for a kind that is neither in KINDS nor "products", the least work of "train" by itself.
        """
        if steps is None:
            steps = max(1, ROWS_A_CALL // (batch * SAMPLES if kind == "log_weights" else batch))
        work, prepare = {
            "train": self._train,
            "gradient": self._gradient,
            "log_weights": self._log_weights,
            "sampling": self._sampling,
            "placement": self._placement,
            "products": self._least_of_train,
        }[kind](batch, steps)
        return Case(work=work, synchronize=self.session.synchronize, steps=steps, examples=batch, prepare=prepare)

    def products(self, products: Products) -> Callable[[int], None]:
        """So many times these products, compiled."""
        launch = self.probes.products(products=products, device=self.config.device, dtype=self.config.factors)
        launch(1)  # compiles
        return launch

    def _train(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        chunk: dict[str, Any] = {
            "indices": minibatches(images=IMAGES, batch_size=batch, seed=0, first_step=0, steps=steps),
            "learning_rates": np.full(steps, 1e-4),
            "kl_weights": np.ones(steps),
        }
        products = floor.products(self.config.replace(batch_size=batch))
        return lambda: self.session.train(self.handle, **chunk, first_step=0, seed=0, noise=None), lambda: self.products(
            products
        )

    def _least_of_train(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        launch = self.products(floor.products(self.config.replace(batch_size=batch)))
        return lambda: launch(steps), lambda: launch

    def _gradient(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        noise = self.draws.standard_normal((1, batch, self.config.model.latent_size))
        rows = np.arange(batch, dtype=np.int32)
        launch = self.probes.gradient(self.session, self.handle, rows, noise=noise, kl_weight=1.0)
        products = floor.products(self.config.replace(batch_size=batch))
        return lambda: launch(steps), lambda: self.products(products)

    def _log_weights(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        rows, samples = np.arange(batch, dtype=np.int32), range(SAMPLES)

        def work() -> None:
            for _ in range(steps):
                self.session.log_weights(self.handle, rows, samples=samples, seed=0, noise=None)

        products = list(floor.forward(self.config.model, batch=batch, samples=SAMPLES).values())
        return work, lambda: self.products(products)

    def _sampling(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        latents = self.draws.standard_normal((batch, self.config.model.latent_size)).astype(self.config.dtype)

        def work() -> None:
            for _ in range(steps):
                self.session.decode(latents)

        layers = floor.forward(self.config.model, batch=batch, samples=1)
        products = [shape for name, shape in layers.items() if name.startswith("decoder")]
        return work, lambda: self.products(products)

    def _placement(self, batch: int, steps: int) -> tuple[Callable[[], object], Maker]:
        """Its floor is a copy of the same bytes in the host's memory."""
        images = np.array(self.images[:batch])
        target = np.empty_like(images)

        def work() -> None:
            for _ in range(steps):
                self.session.place(images)

        def least(steps: int) -> None:
            for _ in range(steps):
                np.copyto(target, images)

        return work, lambda: least


# --- the machine ---

MATRIX = 2048  # rows and columns of the product that measures the matrix rate
COPY_BYTES = 2**28  # far above any cache


def matrix(backend: str, device: Device, precision: Precision = "full") -> tuple[Callable[[], None], float]:
    """(one large product, its FLOP)."""
    dtype = factors(STANDARD.dtype, precision)
    launch = protocol.probes(backend).products(products=[(MATRIX, MATRIX, MATRIX)], device=device, dtype=dtype)
    return lambda: launch(1), 2.0 * MATRIX**3


def empty_launch(backend: str, device: Device, precision: Precision = "full") -> Callable[[], None]:
    """As little as can be launched: a product of two single numbers."""
    launch = protocol.probes(backend).products(products=[(1, 1, 1)], device=device, dtype=factors(STANDARD.dtype, precision))
    return lambda: launch(1)


def copy(backend: str, device: Device, *, size: int = COPY_BYTES) -> tuple[Callable[[], None], float]:
    """(a copy within the device's memory, bytes read and written)."""
    if device == "cpu":
        return host_copy(environment.cores())
    launch = protocol.probes(backend).copy(size=size // 2, device=device)
    return lambda: launch(1), float(size)


def host_copy(cores: int) -> tuple[Callable[[], None], float]:
    """(a copy from memory to memory by all cores, bytes read and written)."""
    source, target = (np.ones(COPY_BYTES // 2, np.uint8) for _ in range(2))
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    pool = ThreadPoolExecutor(cores)

    def call() -> None:
        list(pool.map(lambda part: np.copyto(*part), parts))

    return call, float(COPY_BYTES)
