"""Timed cases: a call of the contract each (calls.py), beside its floor, the least work that the call must do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import cores, floor
from benchmarks.harness.calls import SAMPLES, Calls, Launch, Products, Work, steps_a_call
from benchmarks.harness.presets import STANDARD
from common import protocol
from common.clock import timed
from common.config import Config, Device, Precision, Variational, factors

BATCHES = (32, 128, 1024, 8192)
KINDS = ("train", "gradient", "log_weights", "sampling", "placement")


@dataclass(frozen=True)
class Case:
    """One timed call: `work` does `steps` steps of `examples` images each."""

    work: Work
    synchronize: Callable[[], None]
    steps: int
    examples: int
    prepare: Callable[[], Launch]  # makes `least`

    @functools.cached_property
    def least(self) -> Launch:
        """Does so many steps of the floor, until the device is idle. It is made, and compiled, at its first use."""
        return self.prepare()

    def call(self) -> None:
        """Do the work, until the device is idle, as it must be at the start."""
        self.work()
        self.synchronize()

    def seconds(self) -> float:
        """Seconds of one call."""
        return timed(self.work, synchronize=self.synchronize)[1]

    def floor_seconds(self) -> float:
        """Seconds of the floor of one call."""
        least = self.least  # compiles, outside the clock
        return timed(lambda: least(self.steps), synchronize=self.synchronize)[1]


def chunk_steps(batch: int) -> int:
    """The steps of a run's chunk; of a larger batch, as many as the chunk's images make."""
    training = STANDARD.training
    return min(training.chunk, max(1, training.chunk * training.batch_size // batch))


class Bench(Calls):
    """A session of one backend and family, at the sizes of `settings`, and its cases."""

    def __init__(
        self, backend: str, family: Variational, *, device: Device, precision: Precision = "full", settings: Config = STANDARD
    ):
        super().__init__(backend, settings.replace(variational=family, device=device, precision=precision))

    def case(self, kind: str, batch: int, *, steps: int | None = None) -> Case:
        """A call of this many steps, by default `steps_a_call`. Raises `KeyError` for a kind that isn't in KINDS."""
        steps = steps or steps_a_call(kind, batch)
        return Case(
            work=self.work(kind, batch=batch, steps=steps),
            synchronize=self.session.synchronize,
            steps=steps,
            examples=batch,
            prepare=lambda: self._copy(batch) if kind == "placement" else self.products(self._least(kind, batch)),
        )

    def _least(self, kind: str, batch: int) -> Products:
        """The products of a step: all for training and its gradient, the forward pass's for log weights and sampling."""
        if kind in ("train", "gradient"):
            return floor.products(self.config.replace(batch_size=batch))
        layers = floor.forward(self.config.model, batch=batch, samples=SAMPLES if kind == "log_weights" else 1)
        return [shape for name, shape in layers.items() if kind == "log_weights" or name.startswith("decoder")]

    def _copy(self, batch: int) -> Launch:
        """The floor of placing images: a copy of the same bytes in the host's memory."""
        images = np.array(self.images[:batch])
        target = np.empty_like(images)

        def launch(steps: int) -> None:
            for _ in range(steps):
                np.copyto(target, images)

        return launch


# --- the machine ---

MATRIX = 2048  # rows and columns of the product that measures the matrix rate
COPY_BYTES = 2**28  # far above any cache


def matrix(
    backend: str, device: Device, precision: Precision = "full", *, size: int = MATRIX
) -> tuple[Callable[[], None], float]:
    """(a product of two square matrices, its FLOP). Of `size` 1 it is as little as can be launched."""
    dtype = factors(STANDARD.dtype, precision)
    launch = protocol.probes(backend).products(products=[(size, size, size)], device=device, dtype=dtype)
    return lambda: launch(1), 2.0 * size**3


def copy(backend: str, device: Device, *, size: int = COPY_BYTES) -> tuple[Callable[[], None], float]:
    """(a copy within the device's memory, the bytes read and written)."""
    if device == "cpu":
        return host_copy(cores.count())
    launch = protocol.probes(backend).copy(size=size // 2, device=device)
    return lambda: launch(1), float(size)


def host_copy(cores: int) -> tuple[Callable[[], None], float]:
    """(a copy within the host's memory by this many cores, the bytes read and written)."""
    source, target = (np.ones(COPY_BYTES // 2, np.uint8) for _ in range(2))
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    pool = ThreadPoolExecutor(cores)

    def call() -> None:
        list(pool.map(lambda part: np.copyto(*part), parts))

    return call, float(COPY_BYTES)
