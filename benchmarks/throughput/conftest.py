"""Options of the suite; `python -m benchmarks throughput` gives each backend a process of its own."""

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
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--backend"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Any:
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def precision(request: pytest.FixtureRequest) -> Any:
    return request.config.getoption("--precision")


@pytest.fixture(scope="session")
def seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--seconds"))


@pytest.fixture(scope="session")
def benches(backend: str, device: Any, precision: Any) -> Any:
    """Family → its one session in this process."""
    return functools.cache(lambda family: Bench(backend, family, device=device, precision=precision))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Where it ran, as records say it."""
    machine_info["environment"] = environment.describe(config.getoption("--device"))
