"""Options of the suite; `python -m benchmarks study throughput` gives each backend a process of its own."""

from __future__ import annotations

import functools
from typing import Any, get_args

import pytest

from benchmarks.harness import environment
from benchmarks.harness.cases import Bench
from common.config import Precision
from common.protocol import BACKENDS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vaebench")
    group.addoption("--backend", choices=BACKENDS, required=True, help="The one backend that this process times.")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="Where the models live.")
    group.addoption("--precision", choices=get_args(Precision), default="full", help="Of the matrix products.")
    group.addoption("--seconds", type=float, default=2.0, help="Time for the rounds of one benchmark, their floor apart.")


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> Any:
    """The options: backend, device, precision, seconds."""
    return request.config.option


@pytest.fixture(scope="session")
def benches(asked: Any) -> Any:
    """Family → its one session in this process."""
    return functools.cache(lambda family: Bench(asked.backend, family, device=asked.device, precision=asked.precision))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The environment, as records have it."""
    machine_info["environment"] = environment.describe(config.getoption("--device"))
