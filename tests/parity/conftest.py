"""The same small problem for every backend: weights, images, noise; and the small ladder, climbed once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from benchmarks.harness import cli
from benchmarks.harness.copies import replaced
from benchmarks.parity import comparison, ladder
from benchmarks.parity.comparison import Job
from benchmarks.parity.comparison import deviation as deviation
from common.config import Config
from common.parameters import State, fresh_state, initial_parameters
from common.protocol import BACKENDS, Session, load
from tests.parity.mutations import Mutation

IMAGES = (np.random.default_rng(0).random((300, 12)) < 0.3).astype(np.uint8)


@pytest.fixture(params=["mean-field", "flow"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def small(family: str, **changes: object) -> Config:
    settings = {"variational": family, "dtype": "float64", "steps": 40, "warm_up": 10}
    return ladder.SMALL.replace(**settings | changes)


def random_state(config: Config, *, seed: int = 1) -> State:
    """A state whose parameters are all away from their initial zeros; masked weights stay 0."""
    draws = np.random.default_rng(seed)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=draws.normal(size=config.model.pixels))
    moved = {name: value + 0.3 * draws.normal(size=value.shape) for name, value in initial.items()}
    return fresh_state(moved, optimizer=config.optimizer, training=config.training, dtype=config.dtype)


def session(backend: str, config: Config, state: State) -> Session:
    return load(backend).create(config, state)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In place of a look at each backend: backend → why the command `parity` finds it unavailable; at first none is."""
    reasons: dict[str, str] = {}
    monkeypatch.setattr(
        cli, "described", lambda name: (None, reasons[name]) if name in reasons else ({"devices": {"cpu": "", "cuda": ""}}, "")
    )
    return reasons


SCENARIOS = ladder.small()


@pytest.fixture(scope="session")
def climbed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Job]:
    """What each backend measured on the small ladder: backend → its job. The first of two workers climbs, for both."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "ladder"
    jobs = folder / "jobs.json"
    with FileLock(f"{folder}.lock"):
        if not jobs.exists():
            folder.mkdir(exist_ok=True)
            images = ladder.small_images()
            done = comparison.measure(BACKENDS, SCENARIOS, images=images, folder=folder, threads=1)
            jobs.write_text(json.dumps({backend: asdict(job) for backend, job in done.items()}))
    return {backend: Job.from_dict(values) for backend, values in json.loads(jobs.read_text()).items()}


def broken_by(mutation: Mutation, climbed: dict[str, Job], folder: Path) -> str:
    """What the ladder says when one backend has the fault, up to the rung that should break; nothing where all rungs hold."""
    (number,) = (i for i, scenario in enumerate(SCENARIOS) if scenario.name == mutation.scenario)
    rungs = SCENARIOS[number].rungs
    replaced(folder / "code", mutation)
    job = replace(climbed[mutation.backend], scenarios=[SCENARIOS[number]], folder=str(folder), last=mutation.rung)
    comparison.in_process(job, root=folder / "code")
    results = {backend: clean.read(number) for backend, clean in climbed.items()} | {mutation.backend: job.read(0)}
    try:
        comparison.compare(SCENARIOS[number], results, rungs[: rungs.index(mutation.rung) + 1])
    except comparison.BrokenRungError as error:
        return str(error)
    return ""


def catch(mutation: Mutation, climbed: dict[str, Job], folder: Path) -> None:
    """Fails where the fault slips through, or another rung than its own breaks first."""
    message = broken_by(mutation, climbed, folder)
    assert message, f"{mutation.name} slips through"
    assert message.startswith(f"{mutation.rung} ({mutation.scenario}): "), message
    assert mutation.backend in message, message
