"""Training on several devices is training on one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import processes, threads
from common.errors import UserError
from common.protocol import load
from common.world import World
from tests.parity import devices

QUICK = ("mean-field", "flow", "resnet")


def measured(backend: str, folder: Path, *, scenarios: tuple[str, ...], virtual: int = 0, size: int = 2) -> dict[str, Any]:
    question = {"backend": backend, "devices": size, "processes": not virtual, "scenarios": scenarios, "folder": str(folder)}
    variables = threads.variables(1, disturbed=True)
    if virtual:
        variables["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={virtual}"
    found: dict[str, Any] = processes.ask(f"{devices.__name__}:measure", question, title=backend, variables=variables)
    return found


def check(found: dict[str, Any]) -> None:
    for name, result in found.items():
        assert result["deviation"] < 1e-10, name
        assert result["replicas"], name
        assert result["messages"] == 1, name
        assert result["programs"] == 1, name
        assert result.get("kinds") in (None, ["all-reduce"]), name


# JAX's program is the same on several devices of one process, where its messages are faster.
@pytest.mark.parametrize(
    ("backend", "scenarios"),
    [
        ("pytorch", QUICK),
        ("tensorflow", ("flow",)),
        ("jax", ("mean-field",)),
        pytest.param("tensorflow", ("mean-field", "resnet"), marks=pytest.mark.slow),  # XLA compiles a resnet slowly
        pytest.param("jax", ("flow", "resnet"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_device(backend: str, scenarios: tuple[str, ...], tmp_path: Path) -> None:
    check(measured(backend, tmp_path, scenarios=scenarios))


@pytest.mark.parametrize("scenarios", [("mean-field", "flow"), pytest.param(("resnet",), marks=pytest.mark.slow)])
def test_jax_trains_on_eight_devices_of_one_process_as_on_one(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    check(measured("jax", tmp_path, scenarios=scenarios, virtual=8, size=8))


@pytest.mark.slow
def test_four_processes_train_as_one_device(backend: str, tmp_path: Path) -> None:
    check(measured(backend, tmp_path, scenarios=("mean-field", "rmsprop"), size=4))


@pytest.mark.slow
def test_two_processes_of_compiled_steps_train_as_one_device(tmp_path: Path) -> None:
    check(measured("pytorch", tmp_path, scenarios=("compiled",)))


def test_jax_refuses_a_mesh_of_some_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    load("jax")
    from backends.jax import world

    monkeypatch.setattr(world, "joined", lambda: World(rank=0, addresses=("",) * 4))
    monkeypatch.setattr(world.jax, "devices", lambda device: [SimpleNamespace(process_index=rank) for rank in range(4)])
    with pytest.raises(UserError, match="--devices is 2"):
        world.mesh("cpu", size=2)
