"""The floor of a training step: its matrix products alone, timed in the run's own backend, between the run's own chunks."""

from __future__ import annotations

import math
import time

from common.config import Config, Model
from common.parameters import Layer, Product, layers, shapes
from common.protocol import Probes

REPEATS = 3  # steps a measurement
WORD = 4  # bytes of a float32


def rows(layer: Layer, *, batch: int, samples: int) -> int:
    """Rows of a layer's input: `batch` in the encoder and the context's layer, `samples · batch` after the noise."""
    of_images = layer.name.startswith("encoder") or layer.name.endswith("context")
    return batch if of_images else samples * batch


def forward(model: Model, *, batch: int, samples: int) -> dict[str, Product]:
    """Layer → its forward product."""
    return {layer.name: layer.products(rows(layer, batch=batch, samples=samples))["forward"] for layer in layers(model)}


def products(config: Config) -> list[Product]:
    """A step's products: each layer's forward product and those of both gradients, without the gradient of the pixels."""
    result: list[Product] = []
    for layer in layers(config.model):
        own = layer.products(rows(layer, batch=config.training.batch_size, samples=config.training.objective_samples))
        if layer.name == "encoder.first":
            del own["input's gradient"]
        result += own.values()
    return result


def flop(config: Config) -> float:
    """FLOP of one training step's matrix products: two a multiplication and addition."""
    return sum(2.0 * m * k * n for m, k, n in products(config))


def moved(config: Config) -> float:
    """Bytes that one training step must read and write, in float32.

    Each product's two factors and its result once; for Adam each parameter's value, gradient and two moments, of which it
    writes three again.
    """
    factors = sum(m * k + k * n + m * n for m, k, n in products(config))
    parameters = sum(math.prod(shape) for shape in shapes(config.model).values())
    return float(WORD * (factors + 7 * parameters))


class Floor:
    """Seconds of one step's products, measured once between two chunks."""

    def __init__(self, probes: Probes, config: Config, *, seconds: list[float]):
        self.launch = probes.products(products=products(config), device=config.device, dtype=config.factors)
        self.launch(1)  # compiles
        self.seconds = seconds

    def measure(self) -> None:
        start = time.perf_counter()
        self.launch(REPEATS)
        self.seconds.append((time.perf_counter() - start) / REPEATS)
