"""The floor of a training step: its products alone, of matrices and convolutions, timed in the run's own backend.

Where a run has several devices, these are the products of one device's part of the batch.

It is timed between the run's own chunks.
"""

from __future__ import annotations

import math
import time

from common.config import Config, Model
from common.parameters import Product, layers, multiplications, numbers, shapes
from common.protocol import Probes

REPEATS = 3  # steps a measurement
WORD = 4  # bytes of a float32


def by_layer(model: Model, *, batch: int, samples: int) -> dict[str, dict[str, Product]]:
    """Layer → its products. Its input has `batch` rows in the encoder and the context, `samples · batch` after the noise."""
    found = {}
    for layer in layers(model):
        before_noise = layer.name.startswith("encoder") or layer.name.endswith("context")
        found[layer.name] = layer.products(batch if before_noise else samples * batch)
    return found


def forward(model: Model, *, batch: int, samples: int) -> dict[str, Product]:
    """Layer → its forward product."""
    return {name: own["forward"] for name, own in by_layer(model, batch=batch, samples=samples).items()}


def products(config: Config) -> list[Product]:
    """A step's products on one device: of each layer the forward one and both gradients', without the pixels' gradient."""
    batch = config.training.batch_size // config.training.devices
    found = by_layer(config.model, batch=batch, samples=config.training.objective_samples)
    del found["encoder.first"]["input's gradient"]
    return [product for own in found.values() for product in own.values()]


def flop(config: Config) -> float:
    """FLOP of one training step's products on one device; a multiplication with its addition counts as two."""
    return sum(2.0 * multiplications(product) for product in products(config))


def moved(config: Config) -> float:
    """The bytes that one training step must read and write, in float32.

    Of each product its two factors and its result. Of each parameter seven numbers: Adam reads the value, the gradient and two
    moments, and writes the value and both moments.
    """
    factors = sum(numbers(product) for product in products(config))
    parameters = sum(math.prod(shape) for shape in shapes(config.model).values())
    return float(WORD * (factors + 7 * parameters))


class Floor:
    """Times one step's products between two chunks of a run, and appends the seconds to `seconds`."""

    def __init__(self, probes: Probes, config: Config, *, seconds: list[float]):
        self.launch = probes.products(products=products(config), device=config.device, dtype=config.factors)
        self.launch(1)  # compiles
        self.seconds = seconds

    def measure(self) -> None:
        start = time.perf_counter()
        self.launch(REPEATS)
        self.seconds.append((time.perf_counter() - start) / REPEATS)
