"""The floor of a training step: its matrix products alone, timed in the run's own backend, between the run's own chunks."""

from __future__ import annotations

import math
import time

from common.config import Config, Model
from common.parameters import layers, shapes
from common.protocol import Backend

REPEATS = 3  # steps' worth of products a measurement
WORD = 4  # bytes of a float32

Product = tuple[int, int, int]  # (m, k, n) of [m, k]·[k, n]


def forward(model: Model, *, batch: int, samples: int) -> dict[str, Product]:
    """Layer → its forward product.

    The encoder and the context map have `batch` rows, what follows the noise `samples · batch`.
    """

    def rows(name: str) -> int:
        return batch if name.startswith("encoder") or name.endswith("context") else samples * batch

    return {layer.name: (rows(layer.name), layer.inputs, layer.outputs) for layer in layers(model)}


def products(config: Config) -> list[Product]:
    """A step's products: forward, dW and dX of each layer, dense; no dX for the pixels."""
    sizes = {"batch": config.training.batch_size, "samples": config.training.objective_samples}
    result = []
    for name, (rows, inputs, outputs) in forward(config.model, **sizes).items():
        result.append((rows, inputs, outputs))
        result.append((inputs, rows, outputs))
        if name != "encoder.first":
            result.append((rows, outputs, inputs))
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
    """Seconds of one step's products, a measurement between two chunks each."""

    def __init__(self, backend: Backend, config: Config, *, seconds: list[float]):
        self.launch = backend.probe(products=products(config), device=config.device, dtype=config.factors)
        self.launch(1)  # compiles
        self.seconds = seconds

    def measure(self) -> None:
        start = time.perf_counter()
        self.launch(REPEATS)
        self.seconds.append((time.perf_counter() - start) / REPEATS)
