"""The floor of a training step: its matrix products alone, timed in the run's own backend, between the run's own chunks."""

from __future__ import annotations

import time

from common.config import Config
from common.parameters import layers
from common.protocol import Backend

REPEATS = 3  # steps' worth of products a measurement


def products(config: Config) -> list[tuple[int, int, int]]:
    """(m, k, n) of a step's products [m, k]·[k, n]: forward, dW and dX of each layer, dense; no dX for the pixels.

    The encoder and the context map have `batch` rows, what follows the noise `samples · batch`.
    """
    batch = config.training.batch_size
    result = []
    for layer in layers(config.model):
        per_image = layer.name.startswith("encoder") or layer.name.endswith("context")
        rows = batch if per_image else batch * config.training.objective_samples
        result.append((rows, layer.inputs, layer.outputs))
        result.append((layer.inputs, rows, layer.outputs))
        if layer.name != "encoder.first":
            result.append((rows, layer.outputs, layer.inputs))
    return result


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
