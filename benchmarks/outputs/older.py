"""Test results from the README of the three older scripts: ELBO and log p(x), nats, by K importance samples.

Source: README.md of github.com/jaanli/variational-autoencoder, which has no test result of the TensorFlow script.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.outputs.table import ABSENT
from common.protocol import BACKENDS

COLUMN = "old README: ELBO / log p(x)"
ANCESTORS = {f"ancestor-{backend}": backend for backend in BACKENDS}  # preset with a script's settings → its framework


@dataclass(frozen=True)
class Result:
    steps: int
    elbo: float
    log_px: float
    samples: int


RESULTS = {
    ("pytorch", "mean-field"): (Result(30_000, -106.642, -100.309, 1000), Result(65_000, -103.31, -97.10, 128)),
    ("pytorch", "flow"): (Result(150_000, -101.64, -95.33, 128),),
    ("jax", "mean-field"): (Result(30_000, -104.867, -96.716, 1000),),
    ("jax", "flow"): (Result(30_000, -106.803, -97.620, 1000),),
}


def reported(backend: str, family: str) -> str:
    """The cell of one script and family: its results, or ABSENT where the README has none."""
    results = RESULTS.get((backend, family), ())
    said = [f"{old.elbo:.2f} / {old.log_px:.2f} ({old.steps:,} steps, K {old.samples:,})" for old in results]
    return "; ".join(said) or ABSENT
