"""A finished run's record, for tests."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import environment, record_schema
from benchmarks.harness.record_schema import Record
from common.config import Config


def example(**changes: Any) -> Record:
    """A finished run's record, with some top-level keys changed."""
    record = record_schema.blank(
        Config().replace(variational="flow"),
        backend="jax",
        dataset_name="binarized-mnist",
        dataset_sha256="ab" * 32,
        preset="standard",
        environment=environment.describe(),
    )
    record |= {"status": "ok", "reason": None, "parameters": 12345, "peak_memory_bytes": 3 * 2**28}
    record["curve"] = {"step": [500], "objective": [-140.5], "elbo": [-141.5], "valid_step": [1000], "valid_elbo": [-139.25]}
    record["timing"] |= {"setup_s": 1.5, "compile_s": 2.5, "steady_s": 600.0, "evaluation_s": 30.0}
    record["timing"] |= {"examples_per_s": 7654.3, "examples_per_s_iqr": 321.0, "floor_s": 0.0125, "floor_ratio": 1.34}
    record["test"] |= {"elbo": -94.414, "elbo_se": 0.25, "log_px": -88.964, "log_px_se": 0.24}
    record["test"] |= {"importance_samples": 1000, "images": 10_000, "ess": 61.5}
    return record | changes
