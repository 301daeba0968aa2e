"""A run on several devices: a process each, which start, stop and end together."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import vaebench
from benchmarks.harness import checks, environment, floor, processes, records, runs, stopping
from benchmarks.harness.events import Event
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from common import checkpoints
from common.errors import DiskError, UserError
from tests.harness.identical import assert_same_run

TINY = preset("quick").replace(
    image_shape=(8, 8),
    latent_size=2,
    hidden_size=8,
    steps=1200,
    chunk=20,
    log_interval=100,
    validation_interval=400,
    warm_up=10,
    samples=30,
    images=50,
    dtype="float64",
    selection="best-validation",
    devices=2,
)


def job_in(folder: Path, backend: str, **changes: Any) -> Job:
    config = TINY.replace(**changes)
    return Job(backend, "quick", "binarized-digits", None, config, str(folder), resume=False, threads=1)


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background jobs ignore it, and so do the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    stopping._came.clear()


@pytest.mark.parametrize(
    ("backend", "steps"),
    [
        ("pytorch", 1200),
        pytest.param("jax", 160, marks=pytest.mark.slow),  # its messages take tens of milliseconds
        pytest.param("tensorflow", 1200, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_on_two_devices_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, backend: str, steps: int) -> None:
    """On two devices bit for bit, on one within rounding."""
    whole, halves = (job_in(tmp_path / name, backend, steps=steps) for name in ("whole", "halves"))
    assert runs.in_process(whole) == 0
    sent: list[Event] = []

    def interrupt(event: Event) -> None:
        if event["kind"] == "progress" and event["done"] and not sent:
            sent.append(event)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runs.in_process(halves, heard=interrupt)
    assert 0 < int(checkpoints.load(halves.checkpoint).state["step"]) < steps
    assert psutil.Process().children(recursive=True) == []
    start = shutil.copy(halves.checkpoint, tmp_path / "start.h5")
    assert runs.in_process(dataclasses.replace(halves, resume=True)) == 0
    assert_same_run(tmp_path / "halves", tmp_path / "whole")

    one = dataclasses.replace(job_in(tmp_path / "one", backend, steps=steps, devices=1), start=str(start))
    checks.check_start(one)
    assert runs.in_process(one) == 0
    ours, theirs = (checkpoints.load(job.checkpoint).state for job in (one, whole))
    for name, value in theirs.items():
        assert np.abs(ours[name] - value).max() <= 1e-10 * max(np.abs(value).max(), 1e-300), name
    (record,) = records.read_all(tmp_path / "whole")
    assert record["changed"]["devices"] == record["config"]["training"]["devices"] == 2


def test_record_and_checkpoint_are_named_by_the_devices_where_there_are_several(tmp_path: Path) -> None:
    two, one = (
        Job("jax", "quick", "binarized-digits", None, preset("quick").replace(devices=n), str(tmp_path), resume=False)
        for n in (2, 1)
    )
    assert two.record.name.startswith("quick+devices2_")
    assert two.checkpoint.name.startswith("quick+devices2_")
    assert one.record.name.startswith("quick_")
    assert "devices" not in one.config.as_dict()["training"]


@pytest.mark.parametrize(
    "backend", ["pytorch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "tensorflow"))]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_is_killed_all_end_and_the_record_says_failed(tmp_path: Path, backend: str, rank: int) -> None:
    arguments = ["--backend", backend, "--variational", "mean-field", "--devices", "2", "--threads", "1"]
    long = ["--steps", "1000000", "--validation-interval", "900000", "--latent-size", "2", "--hidden-size", "8"]
    command = [sys.executable, "-m", "benchmarks", "run", *arguments, *long, "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8") as parent:
        assert parent.stderr is not None
        assert any("ELBO" in line for line in parent.stderr), "it trains"
        started = psutil.Process(parent.pid).children(recursive=True)
        (worker,) = psutil.Process(parent.pid).children()
        (other,) = (process for process in worker.children() if "ranks:follow" in " ".join(process.cmdline()))
        began = time.monotonic()
        (worker, other)[rank].send_signal(signal.SIGKILL)
        said = parent.stderr.read()
        code = parent.wait()
    assert time.monotonic() - began < 5
    assert code == 1
    assert psutil.wait_procs(started, timeout=2)[1] == []
    (record,) = records.read_all(tmp_path)
    assert record["status"] == "failed"
    if rank:
        assert "the process of device 2 of 2 ended with code -9" in record["reason"]
        assert "Traceback" not in said


def full_disk(text: str) -> int:
    def save(*_: Any) -> None:
        raise DiskError("The disk is full.")

    checkpoints.save = save
    return runs.worker(text)


@pytest.mark.parametrize("backend", ["pytorch", pytest.param("jax", marks=pytest.mark.slow)])
def test_an_error_of_the_first_process_ends_all_and_is_told(tmp_path: Path, backend: str) -> None:
    """JAX would wait for the other process in its clearing up, for minutes, and then crash."""
    job = job_in(tmp_path, backend, steps=40, validation_interval=20)
    assert processes.ask(f"{__name__}:full_disk", job.as_json(), title="full disk") == runs.UNWRITABLE
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": 3}, "--devices is 3, which doesn't divide --batch-size 128.*give another.* --batch-size 129"),
        ({"devices": 0}, "--devices is 0; it must be at least 1"),
        ({"devices": 4, "device": "cuda"}, "--devices is 4, but this machine has 2 NVIDIA cards"),
    ],
)
def test_a_number_of_devices_that_does_not_fit_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(environment, "cards", lambda: ["0", "1"])
    with pytest.raises(UserError, match=words):
        checks.checked(job_in(tmp_path / "results", "pytorch", **changes))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("backend", ["pytorch", "jax"])
def test_a_callers_own_process_has_one_device(backend: str) -> None:
    images = np.zeros((200, 16), np.uint8)
    with pytest.raises(UserError, match="--devices is 3, which doesn't divide --batch-size 128"):
        vaebench.train(images, backend=backend, devices=3)
    with pytest.raises(UserError, match=r"--devices is 64, but .*`python -m benchmarks run --devices 64` starts"):
        vaebench.train(images, backend=backend, devices=64)


def test_each_process_sees_a_card_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.CARDS, "3, GPU-5")
    environment.cards.cache_clear()
    try:
        two = job_in(tmp_path, "pytorch", device="cuda")
        assert [runs.card(two, rank=rank) for rank in (0, 1)] == [{environment.CARDS: "3"}, {environment.CARDS: "GPU-5"}]
        assert runs.card(job_in(tmp_path, "pytorch", device="cuda", devices=1), rank=0) == {}
        assert runs.card(job_in(tmp_path, "pytorch"), rank=1) == {}
    finally:
        environment.cards.cache_clear()


def test_the_floor_is_of_one_devices_part_of_the_batch() -> None:
    assert floor.products(TINY) == floor.products(TINY.replace(devices=1, batch_size=64))
    assert floor.flop(TINY) == floor.flop(TINY.replace(devices=1)) / 2
